// In place of isa_x86.cc: a machine with AVX-512 that has AMX too, as far as the engine can tell.
// So the tests of the operations run the AMX kernels over emulated tiles.
#include <cstdio>

#include "cpu/isa.h"
#include "cpu/isa/kernels.h"

namespace lowrank::cpu {

namespace amx_emulated {
void register_attention(KernelTable& table);
void register_gemm(KernelTable& table);
}  // namespace amx_emulated

Isa best_isa() {
  static const bool avx512 = __builtin_cpu_supports("avx512f") &&
                             __builtin_cpu_supports("avx512bw") &&
                             __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx2") &&
                             __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  static const bool told = avx512 || std::puts("  not run: no AVX-512 to emulate tiles with");
  return avx512 && told ? Isa::kAmx : Isa::kReference;
}

// The vector instruction sets have tests of their own.
bool isa_available(Isa isa) { return isa == Isa::kReference || isa == best_isa(); }

bool asks_second_cache() { return true; }  // unlike most processors that run the tests

std::string processor_name() { return "emulated tiles"; }

void register_kernels(Isa isa, KernelTable& table) {
  if (isa != Isa::kAmx) return;
  avx2::register_elementwise(table);
  avx2::register_quantization(table);
  avx512::register_elementwise(table);
  avx512::register_quantization(table);
  amx_emulated::register_gemm(table);
  amx_emulated::register_attention(table);
}

}  // namespace lowrank::cpu
