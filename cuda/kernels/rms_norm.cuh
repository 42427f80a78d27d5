// RMSNorm, one block per row; the formulas stand in native/backend/backend.h. Rows are read twice:
// the second time from the cache.
#pragma once

#include "cuda/kernels/columns.cuh"
#include "cuda/kernels/vectors.cuh"

namespace lowrank::cuda {

inline constexpr unsigned kNormThreads = 128;

struct NormShared {
  SharedArray<float, kNormThreads / kWarp> sums;
};

template <typename X>
LOWRANK_KERNEL void rms_norm_kernel(View<X> x, View<X> y, const float* weight, float eps,
                                    float* rstd) {
  NormShared& s = shared<NormShared>();
  const int64_t row = block_index().x;
  float sum = 0;
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8];
    load8_floats(&x.at(row, col), count, v);
    LOWRANK_UNROLL
    for (float value : v) sum = multiply_add(value, value, sum);
  });
  sum = block_reduce(sum, Add{}, s.sums);
  const float scale = 1 / sqrtf(sum / static_cast<float>(x.cols) + eps);
  if (rstd && thread_index() == 0) rstd[row] = scale;
  // y may be x: each thread writes only what it alone reads.
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8], w[8];
    load8_floats(&x.at(row, col), count, v);
    load8_floats(weight + col, count, w);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) v[i] = v[i] * scale * w[i];
    store8_floats(&y.at(row, col), count, v);
  });
}

template <typename X>
LOWRANK_KERNEL void rms_norm_backward_kernel(View<X> x, View<X> d_y, View<X> d_x, bool accumulate,
                                             const float* weight, const float* rstd) {
  NormShared& s = shared<NormShared>();
  const int64_t row = block_index().x;
  float sum = 0;
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8], d[8], w[8];
    load8_floats(&x.at(row, col), count, v);
    load8_floats(&d_y.at(row, col), count, d);
    load8_floats(weight + col, count, w);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) sum = multiply_add(d[i] * w[i], v[i], sum);
  });
  sum = block_reduce(sum, Add{}, s.sums);
  const float scale = rstd[row];
  const float mean = sum / static_cast<float>(x.cols) * scale * scale;
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8], d[8], w[8];
    load8_floats(&x.at(row, col), count, v);
    load8_floats(&d_y.at(row, col), count, d);
    load8_floats(weight + col, count, w);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) d[i] = scale * (d[i] * w[i] - v[i] * mean);
    if (accumulate) {
      load8_floats(&d_x.at(row, col), count, v);
      LOWRANK_UNROLL
      for (int i = 0; i < 8; ++i) d[i] += v[i];
    }
    store8_floats(&d_x.at(row, col), count, d);
  });
}

template <typename X>
LOWRANK_KERNEL void rms_norm_weight_kernel(View<X> x, View<X> d_y, const float* rstd,
                                           float* d_weight) {
  sum_columns(
      x.rows, x.cols,
      [&](int64_t row, int64_t col) {
        return as_float(d_y.at(row, col)) * as_float(x.at(row, col)) * rstd[row];
      },
      [&](int64_t col, float sum) { d_weight[col] += sum; });
}

}  // namespace lowrank::cuda
