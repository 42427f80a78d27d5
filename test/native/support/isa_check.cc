#include "support/isa_check.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <sstream>

#include "cpu/isa.h"
#include "support/test.h"

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

bool gives_bounds(const Device& device) { return std::string(device.info().isa) == "reference"; }

std::vector<std::string> fast_isas() {
  std::vector<std::string> names;
  for (cpu::Isa isa : {cpu::Isa::kNeon, cpu::Isa::kAvx2, cpu::Isa::kAvx512, cpu::Isa::kAmx}) {
    const char* only = std::getenv("LOWRANK_ISA");
    if (only && std::strcmp(only, cpu::isa_name(isa)) != 0) continue;
    if (cpu::isa_available(isa)) names.push_back(cpu::isa_name(isa));
  }
  return names;
}

void compare(const std::string& name, const Output& actual, const Output& expected) {
  if (actual.values.size() != expected.values.size()) {
    report_failure(name.c_str(), 0, actual.name + " has another size");
    return;
  }
  for (size_t i = 0; i < actual.values.size(); ++i) {
    const double bound = expected.bounds.empty() ? 0 : expected.bounds[i];
    if (std::abs(actual.values[i] - expected.values[i]) <= bound) continue;
    std::ostringstream text;
    text.precision(9);
    text << actual.name << "[" << i << "] is " << actual.values[i] << ", the reference has "
         << expected.values[i] << ", allowed " << bound;
    report_failure(name.c_str(), 0, text.str());
    return;
  }
}

void check_every_isa(const std::string& name,
                     const std::function<Outputs(std::shared_ptr<Device>)>& run) {
  const Outputs expected = run(open_cpu("reference", 1));
  for (const std::string& isa : fast_isas()) {
    Outputs first;
    for (int threads = 1; threads <= 3; ++threads) {
      Outputs outputs = run(open_cpu(isa, threads));
      const std::string place = name + ", " + isa + ", " + std::to_string(threads) + " threads";
      if (outputs.size() != expected.size()) {
        report_failure(place.c_str(), 0, "another number of outputs");
        return;
      }
      for (size_t i = 0; i < outputs.size(); ++i) {
        if (threads == 1)
          compare(place, outputs[i], expected[i]);
        else
          compare(place + " against 1 thread", outputs[i], first[i]);
      }
      if (threads == 1) {
        for (Output& output : outputs) output.bounds.clear();
        first = std::move(outputs);
      }
    }
  }
}

}  // namespace lowrank::test
