// Any index either names plain files or throws Error{kInvalidFile}.
#include <cstdlib>

#include "core/error.h"
#include "io/sharded.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    for (const auto& [tensor, file] : lowrank::parse_shard_index(text, "fuzz"))
      if (file.find('/') != std::string::npos || file.find('\0') != std::string::npos ||
          file[0] == '.')
        __builtin_trap();
  } catch (const lowrank::Error& error) {
    if (error.code() != lowrank::ErrorCode::kInvalidFile) __builtin_trap();
  }
  return 0;
}
