// AArch64: Advanced SIMD is part of the baseline.
#include "cpu/isa.h"
#include "cpu/isa/kernels.h"

namespace lowrank::cpu {

Isa best_isa() { return Isa::kNeon; }

bool isa_available(Isa isa) { return isa == Isa::kReference || isa == Isa::kNeon; }

bool asks_second_cache() { return false; }

std::string processor_name() { return "AArch64"; }

void register_kernels(Isa isa, KernelTable& table) {
  if (isa != Isa::kNeon) return;
  neon::register_elementwise(table);
  neon::register_gemm(table);
  neon::register_attention(table);
  neon::register_quantization(table);
}

}  // namespace lowrank::cpu
