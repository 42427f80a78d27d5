#define LOWRANK_ISA_NAMESPACE neon
#define LOWRANK_VECTOR_BYTES 16
#include "cpu/gemm/gemm.inl"
