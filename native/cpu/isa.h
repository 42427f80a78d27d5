// Which instruction set the kernels use. One source per architecture (isa_x86.cc, isa_arm.cc,
// isa_generic.cc) answers what the machine can do and which kernels exist for it.
#pragma once

#include <string>

namespace lowrank::cpu {

struct KernelTable;

// In rising order: on one architecture a higher level can run everything of the lower ones.
enum class Isa { kReference, kNeon, kAvx2, kAvx512, kAvx512BF16, kAmx };
inline constexpr Isa kAllIsas[] = {Isa::kReference, Isa::kNeon,       Isa::kAvx2,
                                   Isa::kAvx512,    Isa::kAvx512BF16, Isa::kAmx};

// kAvx2 means AVX2, FMA, F16C and BMI2; kAvx512 adds F, BW, DQ and VL; kAvx512BF16 adds
// AVX512_BF16; kAmx adds AMX tiles with bf16 products, which the operating system must permit.
const char* isa_name(Isa isa);

// The fastest level on this machine; kReference where no fast kernels were built.
Isa best_isa();

// True when this machine can run `isa`.
bool isa_available(Isa isa);

// The level for a request: null or "" means LOWRANK_ISA from the environment, and without it the
// best one. Throws Error{kUnsupported} for an unknown name or a level that this machine lacks.
Isa choose_isa(const char* request);

// Whether a core reads memory fastest when it asks for it in its second cache, well ahead, because
// the first one waits for few lines at a time.
bool asks_second_cache();

// Human-readable processor name; empty where unknown.
std::string processor_name();

// Overrides rows of the table with every fast kernel of this level, after those of lower levels.
void register_kernels(Isa isa, KernelTable& table);

}  // namespace lowrank::cpu
