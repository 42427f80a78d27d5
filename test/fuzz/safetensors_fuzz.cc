// Any bytes either are a safetensors file whose tensors lie inside it, or Error{kInvalidFile}.
#include <cstdlib>

#include "core/error.h"
#include "io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto header = lowrank::parse_safetensors_header(data, size, "fuzz");
    for (const auto& entry : header.entries) {
      if (entry.begin > entry.end || header.data_offset + entry.end > size) __builtin_trap();
      uint64_t bytes = lowrank::dtype_size(entry.dtype);
      for (const int64_t extent : entry.shape) {
        if (extent < 0) __builtin_trap();
        bytes *= static_cast<uint64_t>(extent);
      }
      if (bytes != entry.end - entry.begin) __builtin_trap();
    }
  } catch (const lowrank::Error& error) {
    if (error.code() != lowrank::ErrorCode::kInvalidFile) __builtin_trap();
  }
  return 0;
}
