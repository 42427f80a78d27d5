#include "support/isa_check.h"

#include <cmath>
#include <sstream>

#include "support/test.h"

namespace lowrank::test {

bool gives_bounds(const Device& device) { return std::string(device.info().isa) == "reference"; }

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
    for (int threads = 1; threads <= most_threads(); ++threads) {
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
