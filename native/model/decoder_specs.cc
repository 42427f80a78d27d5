// How many bytes the decoder needs, for the memory plan; nothing here touches a device's memory.
#include <algorithm>

#include "model/decoder.h"
#include "ops/head_loss.h"
#include "ops/linear.h"

namespace lowrank {
namespace {

int32_t max_rank(const std::vector<LoraModule>& modules, size_t linear) {
  int32_t rank = 0;
  for (const LoraModule& module : modules)
    if (module.linear == linear) rank = std::max(rank, module.rank);
  return rank;
}

int32_t max_rank(const std::vector<LoraModule>& modules) {
  int32_t rank = 0;
  for (const LoraModule& module : modules) rank = std::max(rank, module.rank);
  return rank;
}

Storage head_storage(const ModelConfig& config, const ModelOptions& options) {
  if (options.trainable || config.dtype == DType::kF32) return Storage::kF32;
  return config.dtype == DType::kBF16 ? Storage::kBF16 : Storage::kF16;
}

Storage linear_storage(const ModelConfig& config, const ModelOptions& options) {
  switch (options.quantization) {
    case Quantization::kNone:
      return head_storage(config, options);
    case Quantization::kNf4:
    case Quantization::kNf4Double:
      return Storage::kNF4;
    case Quantization::kInt8:
      return Storage::kInt8;
  }
  return Storage::kF32;
}

size_t linears_workspace(const Device& device, const ModelConfig& config,
                         const ModelOptions& options, const std::vector<LoraModule>& modules,
                         const StepShape& shape) {
  size_t bytes = 0;
  LinearShape linear;
  linear.tokens = shape.tokens;
  linear.activation = options.compute;
  linear.storage = linear_storage(config, options);
  const BlockParameters block = block_parameters(config);
  for (size_t i = 0; i < block.linears().size(); ++i) {
    linear.in = block.linears()[i].in;
    linear.out = block.linears()[i].out;
    linear.max_rank = max_rank(modules, i);
    linear.segment_count = linear.max_rank > 0 ? 1 : 0;
    linear.dropout = linear.max_rank > 0;
    linear.backward = false;
    bytes = std::max(bytes, ops::linear_workspace_bytes(device, linear));
    linear.backward = true;
    if (shape.training) bytes = std::max(bytes, ops::linear_workspace_bytes(device, linear));
  }
  // logits()
  linear.tokens = std::max<int64_t>(shape.labels, 1);
  linear.in = config.hidden;
  linear.out = config.vocabulary;
  linear.max_rank = linear.segment_count = 0;
  linear.dropout = linear.backward = false;
  linear.storage = head_storage(config, options);
  return std::max(bytes, ops::linear_workspace_bytes(device, linear));
}

size_t head_workspace(const Device& device, const ModelConfig& config, const ModelOptions& options,
                      const StepShape& shape) {
  HeadLossShape head;
  head.labelled = shape.labels;
  head.hidden = config.hidden;
  head.vocabulary = config.vocabulary;
  head.activation = options.compute;
  size_t bytes = 0;
  // modules_to_save may put an f32 head in the base's place.
  for (const Storage storage : {head_storage(config, options), Storage::kF32}) {
    head.storage = storage;
    for (const bool backward : {false, true}) {
      if (backward && !shape.training) continue;
      head.backward = backward;
      head.weight_gradient = backward && shape.head_trained;
      bytes = std::max(bytes, ops::head_loss_workspace_bytes(device, head));
    }
  }
  return bytes;
}

}  // namespace

std::vector<BufferSpec> Decoder::saved_specs(const Device& device, const ModelConfig& config,
                                             const std::vector<LoraModule>& modules, DType compute,
                                             const StepShape& shape) {
  const BlockSizes sizes{device, config, compute, shape};
  std::vector<BufferSpec> specs;
  const BlockParameters block = block_parameters(config);
  for (size_t i = 0; i < block.linears().size(); ++i)
    specs.push_back({"xa " + block.linears()[i].path, sizes.low_rank(max_rank(modules, i)),
                     block.linears()[i].only_output});
  for (BufferSpec& spec : config.block->saved(sizes)) specs.push_back(std::move(spec));
  return specs;
}

std::vector<BufferSpec> Decoder::scratch_specs(const Device& device, const ModelConfig& config,
                                               const ModelOptions& options,
                                               const std::vector<LoraModule>& modules,
                                               const StepShape& shape) {
  const BlockSizes sizes{device, config, options.compute, shape};
  const uint64_t hidden = sizes.activations(config.hidden);
  const uint64_t workspace = std::max({
      linears_workspace(device, config, options, modules, shape),
      config.block->workspace_bytes(device, sizes),
      head_workspace(device, config, options, shape),
  });
  // In the order of ScratchBuffer.
  std::vector<BufferSpec> specs = {
      {"norm", hidden},
      {"d_norm", shape.training ? hidden : 0},
      {"rstd", sizes.floats(1)},
      {"workspace", workspace},
      {"xa", shape.cached > 0 ? sizes.low_rank(max_rank(modules)) : 0},
  };
  for (BufferSpec& spec : config.block->scratch(sizes)) specs.push_back(std::move(spec));
  return specs;
}

}  // namespace lowrank
