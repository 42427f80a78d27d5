// The CPU backend's own table: one function per operation, filled by the scalar reference first and
// overridden by the fast kernels of the chosen instruction set (isa.h).
//
// A kernel returns nothing and must not fail for checked arguments; where it can't run (a storage
// type it doesn't know) it calls the same row of `device.reference`. It never allocates: memory
// comes from the op's workspace or from the device's scratch (cpu_device.h). Code that is compiled
// with wide instruction flags follows the rules in cpu/isa/README.md.
#pragma once

#include <cstddef>

#include "backend/backend.h"

namespace lowrank::cpu {

struct CpuDevice;

struct KernelTable {
  size_t (*linear_workspace_bytes)(const CpuDevice&, const LinearShape&);
  size_t (*attention_workspace_bytes)(const CpuDevice&, const AttentionShape&);
  size_t (*head_loss_workspace_bytes)(const CpuDevice&, const HeadLossShape&);

  void (*linear_forward)(CpuDevice&, const LinearForward&);
  void (*linear_backward)(CpuDevice&, const LinearBackward&);
  void (*rms_norm_forward)(CpuDevice&, const RmsNormForward&);
  void (*rms_norm_backward)(CpuDevice&, const RmsNormBackward&);
  void (*layer_norm_forward)(CpuDevice&, const LayerNormForward&);
  void (*layer_norm_backward)(CpuDevice&, const LayerNormBackward&);
  void (*rope)(CpuDevice&, const Rope&);
  void (*gated_activation_forward)(CpuDevice&, const GatedActivationForward&);
  void (*gated_activation_backward)(CpuDevice&, const GatedActivationBackward&);
  void (*attention_forward)(CpuDevice&, const AttentionForward&);
  void (*attention_backward)(CpuDevice&, const AttentionBackward&);
  void (*embedding_forward)(CpuDevice&, const EmbeddingForward&);
  void (*embedding_backward)(CpuDevice&, const EmbeddingBackward&);
  void (*head_loss)(CpuDevice&, const HeadLoss&);
  // The table above (cpu_backend.cc) has put clipping into grad_scale and checks `finite`.
  void (*adamw_f32)(CpuDevice&, const AdamW&);   // AdamW.eight_bit is false
  void (*adamw_8bit)(CpuDevice&, const AdamW&);  // AdamW.eight_bit is true
  void (*squared_norm)(CpuDevice&, const SquaredNorm&);
  void (*cast)(CpuDevice&, const Cast&);
  void (*quantize_nf4)(CpuDevice&, const QuantizeNf4&);
  void (*quantize_absmax)(CpuDevice&, const QuantizeAbsmax&);
  void (*quantize_int8)(CpuDevice&, const QuantizeInt8&);
  void (*dequantize)(CpuDevice&, const Dequantize&);

  // What cpu/peak.cc times: products in registers (the FLOPs done are returned), and reading.
  int64_t (*f32_product_loop)(int64_t rounds);
  int64_t (*bf16_product_loop)(int64_t rounds);
  void (*read_loop)(const void* from, size_t bytes);
};

// Every row filled with the scalar reference (reference_table.cc).
KernelTable reference_table();

}  // namespace lowrank::cpu
