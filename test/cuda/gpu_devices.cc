// The devices of the op tests when these run on a GPU: the scalar reference, and the plug-in as the
// engine loads it. The number of threads means nothing there: three runs must give the same bits.
#include <cstdlib>
#include <map>

#include "core/error.h"
#include "support/isa_check.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

std::shared_ptr<Device> open_gpu() {
  ::setenv("LOWRANK_PLUGIN_PATH", LOWRANK_PLUGIN_FOLDER, 0);
  return Device::open("cuda");
}

const SkipUnless gpu([] {
  try {
    const auto device = open_gpu();
    std::printf("%s, %s\n", device->info().name, device->info().isa);
    return std::string();
  } catch (const Error& error) {
    return std::string("no GPU to run on: ") + error.what();
  }
});

}  // namespace

TEST_LAST(cublaslt_is_there_where_it_is_wanted) {
  const DeviceInfo info = open_gpu()->info();
  std::printf("  %s%s\n", info.library, info.note);
  if (std::getenv("LOWRANK_WANT_CUBLASLT")) CHECK(info.library[0] != '\0');
}

std::shared_ptr<Device> open_cpu(const std::string& isa, int threads) {
  static std::map<std::pair<std::string, int>, std::shared_ptr<Device>> devices;
  auto& device = devices[{isa, threads}];
  if (device) return device;
  if (isa == "cuda") return device = open_gpu();
  DeviceOptions options;
  options.isa = isa.c_str();
  options.threads = threads;
  return device = Device::open("cpu", options);
}

int most_threads() { return 3; }

std::vector<std::string> fast_isas() { return {"cuda"}; }

}  // namespace lowrank::test
