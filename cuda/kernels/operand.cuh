// An operand of a product as it lies in memory, read eight neighbours at a time into f32: any
// storage type, rows outside a range as zeros, dropout. The branches are the same for all threads
// of a block.
#pragma once

#include "core/random.h"
#include "cuda/kernels/vectors.cuh"

namespace lowrank::cuda {

struct Dropout {
  uint64_t key = 0;
  uint32_t threshold = 0;  // 0 keeps everything
  float keep_scale = 1;    // 1 / (1 - p)
  int64_t first_row = 0;   // the op's row that row 0 of the operand is
  int64_t cols = 0;        // the element index is row * cols + col
};

LOWRANK_DEVICE inline float dropout_factor(const Dropout& d, int64_t row, int64_t col) {
  if (d.threshold == 0) return 1;
  const auto index = static_cast<uint64_t>((d.first_row + row) * d.cols + col);
  return dropout_keeps(d.key, index, d.threshold) ? d.keep_scale : 0.0f;
}

// Memory of `rows` x `cols` elements. In a product's terms [m, k] or [n, k] it is that matrix, or
// with `k_is_row` its transpose.
struct Operand {
  Weight values;  // rows and cols of it give the extent in memory
  int64_t stride = 0;
  bool k_is_row = false;
  int64_t first = 0, last = 0;  // other rows are zeros
  float scale = 1;
  Dropout dropout;
};

LOWRANK_DEVICE inline void load8_int8(const int8_t* from, float scale, int64_t count,
                                      float (&v)[8]) {
  if (count == 8 && aligned(from, 8)) {
    const auto words = load_vector<Words2>(from);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i)
      v[i] = static_cast<float>(static_cast<int8_t>(words.w[i / 4] >> (i % 4 * 8))) * scale;
    return;
  }
  LOWRANK_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = i < count ? static_cast<float>(from[i]) * scale : 0.0f;
}

// Eight codes that begin at a multiple of eight share a block and stand in one aligned word.
LOWRANK_DEVICE inline void load8_nf4(const Weight& weight, const Tables& tables, int64_t index,
                                     int64_t count, float (&v)[8]) {
  const auto* bytes = static_cast<const uint8_t*>(weight.data) + index / 2;
  if (count == 8 && index % 8 == 0 && aligned(bytes, 4)) {
    const auto word = load_vector<uint32_t>(bytes);
    const float absmax = nf4_absmax(weight, index / kNf4Block);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i)
      v[i] = table_value(tables, word >> (i / 2 * 8 + (i % 2 == 0 ? 4 : 0)) & 15) * absmax;
    return;
  }
  LOWRANK_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = i < count ? weight_value(weight, tables, index + i) : 0.0f;
}

// Elements (row, col .. col + 7) in memory's terms; zeros outside. kFloats: the storage is known to
// be f32 or bf16, as of everything but weights, which keeps the code small.
template <bool kFloats = false>
LOWRANK_DEVICE inline void load8(const Operand& o, const Tables& tables, int64_t row, int64_t col,
                                 float (&v)[8]) {
  const int64_t count = smaller<int64_t>(8, o.values.cols - col);
  if (row < o.first || row >= o.last || count <= 0) {
    LOWRANK_UNROLL
    for (float& value : v) value = 0;
    return;
  }
  const int64_t index = row * o.stride + col;
  if (o.values.storage == Storage::kBF16) {
    load8_floats(static_cast<const BF16*>(o.values.data) + index, count, v);
  } else if (kFloats || o.values.storage == Storage::kF32) {
    load8_floats(static_cast<const float*>(o.values.data) + index, count, v);
  } else if (o.values.storage == Storage::kF16) {
    load8_floats(static_cast<const F16*>(o.values.data) + index, count, v);
  } else if (o.values.storage == Storage::kInt8) {
    load8_int8(static_cast<const int8_t*>(o.values.data) + index, o.values.row_scale[row], count,
               v);
  } else {
    load8_nf4(o.values, tables, index, count, v);
  }
  if (o.scale != 1) LOWRANK_UNROLL
  for (float& value : v) value *= o.scale;
  if (o.dropout.threshold != 0) LOWRANK_UNROLL
  for (int i = 0; i < 8; ++i) v[i] *= dropout_factor(o.dropout, row, col + i);
}

}  // namespace lowrank::cuda
