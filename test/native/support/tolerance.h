// How far a result may lie from the scalar reference. Bounds follow from the arithmetic: a type's
// unit roundoff u bounds the relative error of one rounding, and a sum of n products computed in
// any order is off by at most n * u * sum |a||b| (Higham, Accuracy and Stability of Numerical
// Algorithms, ch. 3). They are never loosened to make a test pass.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace lowrank::test {

// Half the distance from 1 to the next larger value: f32 has 24 bits, f16 11, bf16 8.
constexpr double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return 0x1p-8;
    case DType::kF16:
      return 0x1p-11;
    default:
      return 0x1p-24;
  }
}

inline constexpr double kU32 = 0x1p-24;

// Error of a sum of `terms` f32 products relative to the sum of their magnitudes; `extra` counts
// further roundings that each term goes through.
constexpr double sum_bound(int64_t terms, int64_t extra = 4) {
  return static_cast<double>(terms + extra) * kU32;
}

// What matrix units may do to each operand before multiplying: nothing with f32 activations; with
// bf16 activations a weight, a dropped-out input or an intermediate of rank r is rounded to bf16.
// `roundings` counts how many such roundings a term can meet.
constexpr double operand_bound(DType activation, int64_t roundings) {
  return activation == DType::kBF16 ? static_cast<double>(roundings) * unit_roundoff(DType::kBF16)
                                    : 0;
}

}  // namespace lowrank::test
