// The devices of this processor's instruction sets.
#include <cstdlib>
#include <cstring>
#include <map>

#include "cpu/isa.h"
#include "support/isa_check.h"

namespace lowrank::test {

std::shared_ptr<Device> open_cpu(const std::string& isa, int threads) {
  static std::map<std::pair<std::string, int>, std::shared_ptr<Device>> devices;
  auto& device = devices[{isa, threads}];
  if (!device) {
    DeviceOptions options;
    options.isa = isa.c_str();
    options.threads = threads;
    device = Device::open("cpu", options);
  }
  return device;
}

int most_threads() { return 3; }

std::vector<std::string> fast_isas() {
  std::vector<std::string> names;
  for (cpu::Isa isa : cpu::kAllIsas) {
    if (isa == cpu::Isa::kReference) continue;
    const char* only = std::getenv("LOWRANK_ISA");
    if (only && std::strcmp(only, cpu::isa_name(isa)) != 0) continue;
    if (cpu::isa_available(isa)) names.push_back(cpu::isa_name(isa));
  }
  return names;
}

}  // namespace lowrank::test
