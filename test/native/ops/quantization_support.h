// What the tests of quantized storage share: the fixtures of test/golden/quantization and the
// devices to run on.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "io/safetensors.h"
#include "support/isa_check.h"
#include "support/test.h"
#include "support/test_array.h"

namespace lowrank::test {

inline SafetensorsFile fixture(const std::string& name) {
  return SafetensorsFile(std::string(LOWRANK_GOLDEN_FOLDER) + "/quantization/" + name);
}

template <typename T>
std::vector<T> values_of(const SafetensorsFile& file, const std::string& name) {
  const TensorView& view = file.at(name);
  std::vector<T> values(view.bytes / sizeof(T));
  std::memcpy(values.data(), view.data, view.bytes);
  return values;
}

struct NamedDevice {
  std::string name;
  std::shared_ptr<Device> device;
};

// The reference and every fast path of this machine, each with `threads` workers.
inline std::vector<NamedDevice> devices(int threads = 2) {
  std::vector<NamedDevice> found{{"reference", open_cpu("reference", threads)}};
  for (const std::string& isa : fast_isas()) found.push_back({isa, open_cpu(isa, threads)});
  return found;
}

// Compares bytes, so that NaN equals NaN and 0 differs from -0.
template <typename T>
void check_same_bits(const std::string& what, const std::vector<T>& actual,
                     const std::vector<T>& expected) {
  if (actual.size() != expected.size()) {
    report_failure(__FILE__, __LINE__, what + ": another size");
    return;
  }
  for (size_t i = 0; i < actual.size(); ++i)
    if (std::memcmp(&actual[i], &expected[i], sizeof(T)) != 0) {
      report_failure(__FILE__, __LINE__, what + " differs at " + std::to_string(i));
      return;
    }
}

}  // namespace lowrank::test
