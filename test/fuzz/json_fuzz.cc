// Any text either parses or throws Error{kInvalidFile}; what parses survives being written.
#include <cstdlib>

#include "core/error.h"
#include "io/json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using lowrank::Json;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Json json;
  try {
    json = Json::parse(text, "fuzz");
  } catch (const lowrank::Error& error) {
    if (error.code() != lowrank::ErrorCode::kInvalidFile) __builtin_trap();
    return 0;
  }
  const std::string once = json.dump();
  if (Json::parse(once, "written").dump() != once) __builtin_trap();
  if (Json::parse(json.dump(2), "indented").dump() != once) __builtin_trap();
  return 0;
}
