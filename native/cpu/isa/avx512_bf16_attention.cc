#define LOWRANK_ISA_NAMESPACE avx512_bf16
#define LOWRANK_VECTOR_BYTES 64
#define LOWRANK_BF16_UNIT
#include "cpu/kernels/attention.inl"
