// The code books that kernels look values up in; one copy in device memory per open device.
#pragma once

#include <array>

#include "core/dynamic_map.h"
#include "core/nf4.h"

namespace lowrank::cuda {

struct Tables {
  std::array<float, 16> nf4_values = kNf4Values;
  std::array<float, 15> nf4_thresholds = kNf4Thresholds;
  DynamicMap signed_map{};
  DynamicMap unsigned_map{};
};

}  // namespace lowrank::cuda
