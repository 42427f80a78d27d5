// The family of row-wise kernels, compiled once per instruction set (see cpu/isa/README.md).
#include "cpu/isa/kernels.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {

void register_elementwise(KernelTable&) {}

}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
