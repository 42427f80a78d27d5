#include "core/random.h"

#include <cmath>

namespace lowrank {

float random_normal(uint64_t key, uint64_t index) {
  const Philox4 bits = philox4x32(key, index, 1);
  // (0, 1] for the logarithm.
  const double u = (static_cast<double>(bits.v[0]) + 1.0) * 0x1p-32;
  const double angle = static_cast<double>(bits.v[1]) * 0x1p-32 * 6.283185307179586476925;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) * std::cos(angle));
}

}  // namespace lowrank
