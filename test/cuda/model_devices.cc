// The devices of the op tests when these run over the CUDA kernels: the scalar reference, and the
// plug-in's table over the execution model, where the number of threads seeds their order.
#include <map>

#include "cuda/plugin.h"
#include "support/isa_check.h"

namespace lowrank::test {

std::shared_ptr<Device> open_cpu(const std::string& isa, int threads) {
  static std::map<std::pair<std::string, int>, std::shared_ptr<Device>> devices;
  auto& device = devices[{isa, threads}];
  if (device) return device;
  DeviceOptions options;
  options.isa = isa.c_str();
  options.threads = threads;
  device = isa == "cuda" ? Device::open(cuda::backend(), options) : Device::open("cpu", options);
  return device;
}

// Two orders of threads and blocks: most of these tests' time.
int most_threads() { return 2; }

std::vector<std::string> fast_isas() { return {"cuda"}; }

}  // namespace lowrank::test
