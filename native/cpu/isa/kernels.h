// The registration functions of the fast kernels: one per instruction set and family, defined by
// the units in this folder. Each overrides its rows of the table.
#pragma once

#include "cpu/kernel_table.h"

namespace lowrank::cpu {

namespace avx2 {
void register_elementwise(KernelTable& table);
void register_gemm(KernelTable& table);
void register_attention(KernelTable& table);
void register_quantization(KernelTable& table);
}  // namespace avx2
namespace avx512 {
void register_elementwise(KernelTable& table);
void register_gemm(KernelTable& table);
void register_attention(KernelTable& table);
void register_quantization(KernelTable& table);
}  // namespace avx512
namespace avx512_bf16 {
void register_elementwise(KernelTable& table);
void register_gemm(KernelTable& table);
void register_attention(KernelTable& table);
}  // namespace avx512_bf16
namespace amx {
void register_gemm(KernelTable& table);
void register_attention(KernelTable& table);
}  // namespace amx
namespace neon {
void register_elementwise(KernelTable& table);
void register_gemm(KernelTable& table);
void register_attention(KernelTable& table);
void register_quantization(KernelTable& table);
}  // namespace neon

}  // namespace lowrank::cpu
