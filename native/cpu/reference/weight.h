// Reading one element of a weight of any storage type.
#pragma once

#include "backend/backend.h"
#include "core/dtype.h"
#include "core/nf4.h"

namespace lowrank::reference {

// The scale of NF4 block `block`, in f32 as bitsandbytes restores it.
inline float nf4_absmax(const Weight& weight, int64_t block) {
  if (weight.absmax) return weight.absmax[block];
  const float product = weight.nested_code[weight.absmax_codes[block]] *
                        weight.nested_absmax[block / kNf4NestedBlock];
  return product + weight.nested_offset;
}

// The value at (row, col). Exact for f32, bf16 and f16; NF4 and int8 are one f32 product.
inline float weight_at(const Weight& weight, int64_t row, int64_t col) {
  const int64_t element = row * weight.cols + col;
  switch (weight.storage) {
    case Storage::kF32:
      return static_cast<const float*>(weight.data)[element];
    case Storage::kBF16:
      return to_float(static_cast<const BF16*>(weight.data)[element]);
    case Storage::kF16:
      return to_float(static_cast<const F16*>(weight.data)[element]);
    case Storage::kNF4: {
      const uint8_t pair = static_cast<const uint8_t*>(weight.data)[element / 2];
      const int code = element % 2 == 0 ? pair >> 4 : pair & 15;
      return kNf4Values[code] * nf4_absmax(weight, element / kNf4Block);
    }
    case Storage::kInt8:
      return static_cast<float>(static_cast<const int8_t*>(weight.data)[element]) *
             weight.row_scale[row];
  }
  return 0;
}

}  // namespace lowrank::reference
