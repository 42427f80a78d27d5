// Walking over matrices, and reading weights of any storage type one element at a time.
#pragma once

#include "cuda/device.cuh"
#include "cuda/tables.h"

namespace lowrank::cuda {

template <typename T>
struct View {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, stride = 0;
  LOWRANK_DEVICE inline T& at(int64_t row, int64_t col) const { return data[row * stride + col]; }
};

template <typename T>
View<T> view(const Matrix& matrix) {
  return {static_cast<T*>(matrix.data), matrix.rows, matrix.cols, matrix.stride};
}

inline constexpr unsigned kRowThreads = 128;

// A thread per element; neighbouring threads take neighbouring columns.
inline Grid element_grid(int64_t rows, int64_t cols) {
  return {static_cast<unsigned>(divide_up(cols, kRowThreads)),
          static_cast<unsigned>(smaller<int64_t>(rows, 65535))};
}
template <typename Body>
LOWRANK_DEVICE inline void for_each_element(int64_t rows, int64_t cols, const Body& body) {
  const int64_t col = int64_t{block_index().x} * kRowThreads + thread_index();
  if (col >= cols) return;
  for (int64_t row = block_index().y; row < rows; row += grid_size().y) body(row, col);
}

// A flat range of elements.
inline Grid flat_grid(int64_t count) {
  return {static_cast<unsigned>(smaller<int64_t>(divide_up(count, kRowThreads), 1 << 16))};
}
template <typename Body>
LOWRANK_DEVICE inline void for_each_index(int64_t count, const Body& body) {
  const int64_t step = int64_t{grid_size().x} * kRowThreads;
  for (int64_t i = int64_t{block_index().x} * kRowThreads + thread_index(); i < count; i += step)
    body(i);
}

// Absmax of NF4 block `block`; with double quantization a rounded product and a rounded sum.
LOWRANK_DEVICE inline float nf4_absmax(const Weight& weight, int64_t block) {
  if (weight.absmax) return weight.absmax[block];
  const float scaled = weight.nested_code[weight.absmax_codes[block]] *
                       weight.nested_absmax[block / kNf4NestedBlock];
  return scaled + weight.nested_offset;
}

LOWRANK_DEVICE inline float table_value(const Tables& tables, unsigned code) {
  return tables.nf4_values[code];
}

// Element `index` = row * cols + col.
LOWRANK_DEVICE inline float weight_value(const Weight& weight, const Tables& tables,
                                         int64_t index) {
  switch (weight.storage) {
    case Storage::kBF16:
      return as_float(static_cast<const BF16*>(weight.data)[index]);
    case Storage::kF16:
      return as_float(static_cast<const F16*>(weight.data)[index]);
    case Storage::kInt8:
      return static_cast<float>(static_cast<const int8_t*>(weight.data)[index]) *
             weight.row_scale[index / weight.cols];
    case Storage::kNF4: {
      const unsigned pair = static_cast<const uint8_t*>(weight.data)[index / 2];
      const unsigned code = index % 2 == 0 ? pair >> 4 : pair & 15;
      return table_value(tables, code) * nf4_absmax(weight, index / kNf4Block);
    }
    default:
      return static_cast<const float*>(weight.data)[index];
  }
}

}  // namespace lowrank::cuda
