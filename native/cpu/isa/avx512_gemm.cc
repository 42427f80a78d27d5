#define LOWRANK_ISA_NAMESPACE avx512
#define LOWRANK_VECTOR_BYTES 64
#include "cpu/gemm/gemm.inl"
