// Any adapter_config.json or config.json either parses or throws Error{kInvalidFile} or
// Error{kUnsupported}.
#include <cstdlib>

#include "backend/registry.h"
#include "core/error.h"
#include "model/config.h"
#include "model/peft_config.h"

// No device is ever opened here.
const lowrank::Backend& lowrank::cpu_backend() {
  static const Backend none{};
  return none;
}

namespace {

template <typename Parse>
void check(const Parse& parse) {
  try {
    parse();
  } catch (const lowrank::Error& error) {
    if (error.code() != lowrank::ErrorCode::kInvalidFile &&
        error.code() != lowrank::ErrorCode::kUnsupported)
      __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  check([&] { lowrank::parse_peft_config(text, "fuzz"); });
  check([&] { lowrank::parse_model_config(text, "fuzz"); });
  return 0;
}
