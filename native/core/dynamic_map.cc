#include "core/dynamic_map.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace lowrank {
namespace {

// Point i of `intervals` equal steps from 0.1 to 1, counted from the nearer end and rounded once:
// torch.linspace does so, and the codes' last bits depend on it.
float grid_point(int i, int intervals) {
  const float step = (1.0f - 0.1f) / static_cast<float>(intervals);
  if (i < (intervals + 1) / 2) return std::fma(step, static_cast<float>(i), 0.1f);
  return std::fma(-step, static_cast<float>(intervals - i), 1.0f);
}

DynamicMap make_map(bool is_signed) {
  constexpr float kDecades[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};
  DynamicMap map{};
  size_t count = 0;
  for (int decade = 0; decade < 7; ++decade) {
    const int intervals = 1 << (is_signed ? decade : decade + 1);
    for (int i = 0; i < intervals; ++i) {
      const float middle = (grid_point(i, intervals) + grid_point(i + 1, intervals)) / 2;
      const float value = kDecades[decade] * middle;
      map.values[count++] = value;
      if (is_signed) map.values[count++] = -value;
    }
  }
  map.values[count++] = 0;
  map.values[count] = 1;
  std::sort(map.values.begin(), map.values.end());
  for (size_t i = 0; i < 255; ++i) map.thresholds[i] = (map.values[i] + map.values[i + 1]) / 2;
  map.thresholds[255] = std::numeric_limits<float>::infinity();
  return map;
}

}  // namespace

const DynamicMap& signed_dynamic_map() {
  static const DynamicMap map = make_map(true);
  return map;
}

const DynamicMap& unsigned_dynamic_map() {
  static const DynamicMap map = make_map(false);
  return map;
}

}  // namespace lowrank
