// Attention over emulated tiles: same packing, masks and sums as on the hardware.
#define LOWRANK_ISA_NAMESPACE amx_emulated
#define LOWRANK_VECTOR_BYTES 64
#define LOWRANK_AMX
#define LOWRANK_TILES "cpu/tiles_emulated.inl"
#include "cpu/kernel_table.h"
namespace lowrank::cpu::amx_emulated {
void register_attention(KernelTable& table);
}
#include "cpu/kernels/attention.inl"
