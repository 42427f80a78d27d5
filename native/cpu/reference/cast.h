// Conversion between the float types, and a weight of any storage written out as one of them.
#pragma once

#include "cpu/reference/scalar.h"
#include "cpu/reference/weight.h"

namespace lowrank::reference {

template <typename From, typename To>
void cast(const From* from, To* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = from_float<To>(to_float(from[i]));
}

template <typename To>
void dequantize(const Weight& weight, To* to) {
  for (int64_t row = 0; row < weight.rows; ++row) {
    for (int64_t col = 0; col < weight.cols; ++col)
      to[row * weight.cols + col] = from_float<To>(weight_at(weight, row, col));
  }
}

}  // namespace lowrank::reference
