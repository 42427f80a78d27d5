// Reading one element of a weight of any storage type.
#pragma once

#include "cpu/reference/nf4.h"

namespace lowrank::reference {

// The value at (row, col). Exact for f32, bf16 and f16; NF4 and int8 are one f32 product.
inline float weight_at(const Weight& weight, int64_t row, int64_t col) {
  return weight_value(weight, row * weight.cols + col);
}

}  // namespace lowrank::reference
