// Sums over the rows of a matrix, per column and in a fixed order.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace lowrank::cuda {

inline constexpr unsigned kColumnGroups = 8;

struct ColumnShared {
  SharedArray<float, kWarp * kColumnGroups> sums;
};

// sum over rows of term(row, col) for 32 columns: each warp takes every eighth row, and the eight
// sums are added in order. Called by blocks of 8 warps; `finish(col, sum)` runs once per column.
template <typename Term, typename Finish>
LOWRANK_DEVICE inline void sum_columns(int64_t rows, int64_t cols, const Term& term,
                                       const Finish& finish) {
  ColumnShared& s = shared<ColumnShared>();
  const int64_t col = int64_t{block_index().x} * kWarp + lane_index();
  float sum = 0;
  if (col < cols)
    for (int64_t row = warp_index(); row < rows; row += kColumnGroups) sum += term(row, col);
  s.sums[thread_index()] = sum;
  block_sync();
  if (warp_index() != 0 || col >= cols) return;
  for (unsigned group = 1; group < kColumnGroups; ++group)
    sum += s.sums[group * kWarp + lane_index()];
  finish(col, sum);
}

// total += column sums.
template <typename X>
LOWRANK_KERNEL void column_sum_kernel(View<X> x, float* total) {
  sum_columns(
      x.rows, x.cols, [&](int64_t row, int64_t col) { return as_float(x.at(row, col)); },
      [&](int64_t col, float sum) { total[col] += sum; });
}

}  // namespace lowrank::cuda
