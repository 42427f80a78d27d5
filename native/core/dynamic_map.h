// The 8-bit "dynamic" code books of block-wise quantization (Dettmers, "8-bit approximations for
// parallelism in deep learning", arXiv 1511.04561; Dettmers et al., "8-bit optimizers via
// block-wise quantization", arXiv 2110.02861): per decade a linear fraction with one bit less.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace lowrank {

struct DynamicMap {
  std::array<float, 256> values;      // ascending
  std::array<float, 256> thresholds;  // half way between neighbours; the last one is infinity

  // The number of thresholds below `x`: a value on a threshold takes the lower code, NaN code 255.
  constexpr uint8_t code(float x) const {
    int code = 0;
    for (int step = 128; step > 0; step /= 2)
      if (!(thresholds[static_cast<size_t>(code + step - 1)] >= x)) code += step;
    return static_cast<uint8_t>(code);
  }
};

// Bit for bit bitsandbytes' create_dynamic_map(signed=True) and (signed=False). The signed map runs
// from -0.993 to 1 and serves absmax values and first moments; the unsigned one from 0 to 1 serves
// second moments.
const DynamicMap& signed_dynamic_map();
const DynamicMap& unsigned_dynamic_map();

}  // namespace lowrank
