// Any other processor: the scalar reference only.
#include "cpu/isa.h"

namespace lowrank::cpu {

Isa best_isa() { return Isa::kReference; }

bool isa_available(Isa isa) { return isa == Isa::kReference; }

bool asks_second_cache() { return false; }

std::string processor_name() { return {}; }

void register_kernels(Isa, KernelTable&) {}

}  // namespace lowrank::cpu
