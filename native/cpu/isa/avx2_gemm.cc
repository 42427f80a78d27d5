#define LOWRANK_ISA_NAMESPACE avx2
#define LOWRANK_VECTOR_BYTES 32
#include "cpu/gemm/gemm.inl"
