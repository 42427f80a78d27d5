// The AMX products with emulated tiles: same packing, blocking and epilogue as on the hardware.
#define LOWRANK_ISA_NAMESPACE amx_emulated
#define LOWRANK_VECTOR_BYTES 64
#define LOWRANK_AMX
#define LOWRANK_TILES "cpu/tiles_emulated.inl"
#include "cpu/kernel_table.h"
namespace lowrank::cpu::amx_emulated {
void register_gemm(KernelTable& table);
}
#include "cpu/gemm/gemm.inl"
