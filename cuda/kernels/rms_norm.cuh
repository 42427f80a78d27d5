// RMSNorm, one block per row; the formulas stand in native/backend/backend.h. Rows are read twice:
// the second time from the cache.
#pragma once

#include "cuda/kernels/columns.cuh"

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
  for (int64_t i = thread_index(); i < x.cols; i += kNormThreads) {
    const float value = as_float(x.at(row, i));
    sum = multiply_add(value, value, sum);
  }
  sum = block_reduce(sum, Add{}, s.sums);
  const float scale = 1 / sqrtf(sum / static_cast<float>(x.cols) + eps);
  if (rstd && thread_index() == 0) rstd[row] = scale;
  // y may be x: each thread writes only what it alone reads.
  for (int64_t i = thread_index(); i < x.cols; i += kNormThreads)
    y.at(row, i) = element_from<X>(as_float(x.at(row, i)) * scale * weight[i]);
}

template <typename X>
LOWRANK_KERNEL void rms_norm_backward_kernel(View<X> x, View<X> d_y, View<X> d_x, bool accumulate,
                                             const float* weight, const float* rstd) {
  NormShared& s = shared<NormShared>();
  const int64_t row = block_index().x;
  float sum = 0;
  for (int64_t i = thread_index(); i < x.cols; i += kNormThreads)
    sum = multiply_add(as_float(d_y.at(row, i)) * weight[i], as_float(x.at(row, i)), sum);
  sum = block_reduce(sum, Add{}, s.sums);
  const float scale = rstd[row];
  const float mean = sum / static_cast<float>(x.cols) * scale * scale;
  for (int64_t i = thread_index(); i < x.cols; i += kNormThreads) {
    const float gradient =
        scale * (as_float(d_y.at(row, i)) * weight[i] - as_float(x.at(row, i)) * mean);
    const float before = accumulate ? as_float(d_x.at(row, i)) : 0;
    d_x.at(row, i) = element_from<X>(before + gradient);
  }
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
