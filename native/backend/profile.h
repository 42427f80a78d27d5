// A backend around another one that keeps time: for each operation and shape, how often it ran, how
// long it took, what it had to compute and which bytes it had to move at least. The rows are what
// docs/performance.md and `lowrank bench` show.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"

namespace lowrank {

struct ProfileRow {
  std::string op;     // the table's row: "linear_forward"
  std::string shape;  // "512 x 896 -> 4864 bf16 r16"
  int64_t calls = 0;
  double seconds = 0;
  double flops = 0;  // products only, two per multiply-add; causal attention counts visible pairs
  double bytes = 0;  // operands read and written once
};

// Opens a device whose operations are timed. Operations run one after the other as on any device; a
// profiled asynchronous device is synchronized after each. Throws as Device::open.
std::shared_ptr<Device> open_profiled(const std::string& name, const DeviceOptions& options = {});

// What ran since the last call, slowest first; empty for a device that isn't profiled.
std::vector<ProfileRow> take_profile(Device& device);

}  // namespace lowrank
