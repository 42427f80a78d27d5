// LayerNorm, one block per row; the formulas stand in native/backend/backend.h and
// native/cpu/reference/layer_norm.h. Rows are read from memory once and from the cache afterwards;
// the variance is summed from distances to the mean, which doesn't cancel.
#pragma once

#include "cuda/kernels/columns.cuh"

namespace lowrank::cuda {

inline constexpr unsigned kLayerNormThreads = 128;

struct LayerNormShared {
  SharedArray<float, kLayerNormThreads / kWarp> first, second;
};

template <typename X>
LOWRANK_KERNEL void layer_norm_kernel(View<X> x, View<X> y, const float* weight, const float* bias,
                                      float eps, float* mean, float* rstd) {
  LayerNormShared& s = shared<LayerNormShared>();
  const int64_t row = block_index().x;
  const float count = static_cast<float>(x.cols);
  float sum = 0, squares = 0;
  for (int64_t i = thread_index(); i < x.cols; i += kLayerNormThreads)
    sum += as_float(x.at(row, i));
  const float centre = block_reduce(sum, Add{}, s.first) / count;
  for (int64_t i = thread_index(); i < x.cols; i += kLayerNormThreads) {
    const float distance = as_float(x.at(row, i)) - centre;
    squares = multiply_add(distance, distance, squares);
  }
  const float scale = 1 / sqrtf(block_reduce(squares, Add{}, s.second) / count + eps);
  if (thread_index() == 0) {
    if (mean) mean[row] = centre;
    if (rstd) rstd[row] = scale;
  }
  // y may be x: each thread writes only what it alone reads.
  for (int64_t i = thread_index(); i < x.cols; i += kLayerNormThreads) {
    const float normalized = (as_float(x.at(row, i)) - centre) * scale;
    y.at(row, i) = element_from<X>(multiply_add(normalized, weight[i], bias ? bias[i] : 0.0f));
  }
}

template <typename X>
LOWRANK_KERNEL void layer_norm_backward_kernel(View<X> x, View<X> d_y, View<X> d_x, bool accumulate,
                                               const float* weight, const float* mean,
                                               const float* rstd) {
  LayerNormShared& s = shared<LayerNormShared>();
  const int64_t row = block_index().x;
  const float count = static_cast<float>(x.cols), centre = mean[row], scale = rstd[row];
  float sum = 0, product = 0;
  for (int64_t i = thread_index(); i < x.cols; i += kLayerNormThreads) {
    const float gradient = as_float(d_y.at(row, i)) * weight[i];
    sum += gradient;
    product = multiply_add(gradient, (as_float(x.at(row, i)) - centre) * scale, product);
  }
  sum = block_reduce(sum, Add{}, s.first) / count;
  product = block_reduce(product, Add{}, s.second) / count;
  for (int64_t i = thread_index(); i < x.cols; i += kLayerNormThreads) {
    const float normalized = (as_float(x.at(row, i)) - centre) * scale;
    const float gradient =
        (as_float(d_y.at(row, i)) * weight[i] - sum - normalized * product) * scale;
    const float before = accumulate ? as_float(d_x.at(row, i)) : 0;
    d_x.at(row, i) = element_from<X>(before + gradient);
  }
}

template <typename X>
LOWRANK_KERNEL void layer_norm_weight_kernel(View<X> x, View<X> d_y, const float* mean,
                                             const float* rstd, float* d_weight) {
  sum_columns(
      x.rows, x.cols,
      [&](int64_t row, int64_t col) {
        return as_float(d_y.at(row, col)) * ((as_float(x.at(row, col)) - mean[row]) * rstd[row]);
      },
      [&](int64_t col, float sum) { d_weight[col] += sum; });
}

}  // namespace lowrank::cuda
