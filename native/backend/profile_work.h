// What an operation has to do: FLOPs of products only, bytes of its operands, each once.
#pragma once

#include <string>

#include "backend/backend.h"

namespace lowrank {

struct Work {
  std::string shape;
  double flops = 0;
  double bytes = 0;
};

// The device whose memory an operation's pointers name.
struct WorkDevice {
  const Backend* backend = nullptr;
  void* handle = nullptr;
};

Work work_of(const WorkDevice& device, const LinearForward& op);
Work work_of(const WorkDevice& device, const LinearBackward& op);
Work work_of(const WorkDevice& device, const HeadLoss& op);
Work work_of(const WorkDevice& device, const RmsNormForward& op);
Work work_of(const WorkDevice& device, const RmsNormBackward& op);
Work work_of(const WorkDevice& device, const LayerNormForward& op);
Work work_of(const WorkDevice& device, const LayerNormBackward& op);
Work work_of(const WorkDevice& device, const Rope& op);
Work work_of(const WorkDevice& device, const GatedActivationForward& op);
Work work_of(const WorkDevice& device, const GatedActivationBackward& op);
Work work_of(const WorkDevice& device, const EmbeddingForward& op);
Work work_of(const WorkDevice& device, const EmbeddingBackward& op);
Work work_of(const WorkDevice& device, const AdamW& op);
Work work_of(const WorkDevice& device, const SquaredNorm& op);
Work work_of(const WorkDevice& device, const Cast& op);
Work work_of(const WorkDevice& device, const QuantizeNf4& op);
Work work_of(const WorkDevice& device, const QuantizeAbsmax& op);
Work work_of(const WorkDevice& device, const QuantizeInt8& op);
Work work_of(const WorkDevice& device, const Dequantize& op);
Work work_of(const WorkDevice& device, const AttentionForward& op);
Work work_of(const WorkDevice& device, const AttentionBackward& op);

}  // namespace lowrank
