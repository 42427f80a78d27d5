// liblowrank_cuda.so as the engine loads it: the table is whole, and a machine without a driver or
// a GPU gets a sentence about it.
#include <cstdlib>
#include <cstring>

#include "backend/device.h"
#include "backend/registry.h"
#include "core/error.h"
#include "support/test.h"

using namespace lowrank;

namespace {

const Backend& plugin() {
  ::setenv("LOWRANK_PLUGIN_PATH", LOWRANK_PLUGIN_FOLDER, 1);
  return find_backend("cuda");
}

}  // namespace

TEST(the_plugin_fills_the_table) {
  const Backend& backend = plugin();
  CHECK_EQ(backend.abi_version, kBackendAbiVersion);
  CHECK_EQ(backend.struct_bytes, sizeof(Backend));
  CHECK(!backend.host_memory);
  // Function pointers stand in two rows, around host_memory.
  const auto all_set = [&](size_t begin, size_t end) {
    for (size_t at = begin; at < end; at += sizeof(void*)) {
      void* pointer = nullptr;
      std::memcpy(&pointer, reinterpret_cast<const char*>(&backend) + at, sizeof pointer);
      if (!pointer) return false;
    }
    return true;
  };
  CHECK(all_set(offsetof(Backend, open), offsetof(Backend, host_memory)));
  CHECK(all_set(offsetof(Backend, linear_workspace_bytes), sizeof(Backend)));
}

TEST(opening_works_or_says_what_is_missing) {
  plugin();
  try {
    const auto device = Device::open("cuda");
    std::printf("  %s, %s\n", device->info().name, device->info().isa);
  } catch (const Error& error) {
    std::printf("  %s\n", error.what());
    CHECK(error.code() == ErrorCode::kBackend);
    CHECK(std::string(error.what()).find("NVIDIA driver") != std::string::npos ||
          std::string(error.what()).find("GPU") != std::string::npos);
  }
}

TEST(the_registry_lists_it) {
  plugin();
  for (const BackendReport& report : list_backends())
    if (report.name == "cuda") CHECK(report.available);
}
