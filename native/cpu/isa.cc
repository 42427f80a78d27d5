#include "cpu/isa.h"

#include <cstdlib>

#include "core/error.h"

namespace lowrank::cpu {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kReference:
      return "reference";
    case Isa::kNeon:
      return "neon";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512BF16:
      return "avx512_bf16";
    case Isa::kAmx:
      return "amx";
  }
  return "?";
}

Isa choose_isa(const char* request) {
  const char* place = "isa";
  if (!request || !*request) {
    request = std::getenv("LOWRANK_ISA");
    place = "LOWRANK_ISA";
  }
  if (!request || !*request) return best_isa();
  const std::string name = request;
  for (Isa isa : kAllIsas) {
    if (name != isa_name(isa)) continue;
    if (isa_available(isa)) return isa;
    throw Error(ErrorCode::kUnsupported, "this machine can't run the " + name + " kernels", place,
                std::string("leave it out, or use ") + isa_name(best_isa()) + " or reference");
  }
  std::string names;
  for (Isa isa : kAllIsas) names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  throw Error(ErrorCode::kUnsupported, "unknown instruction set '" + name + "'", place,
              "use one of " + names);
}

}  // namespace lowrank::cpu
