#define LOWRANK_ISA_NAMESPACE amx
#define LOWRANK_VECTOR_BYTES 64
#define LOWRANK_AMX
#include "cpu/kernels/attention.inl"
