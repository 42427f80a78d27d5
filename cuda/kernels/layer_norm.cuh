// LayerNorm, one block per row; the formulas stand in native/backend/backend.h and
// native/cpu/reference/layer_norm.h. Rows are read from memory once and from the cache afterwards;
// the variance is summed from distances to the mean, which doesn't cancel.
#pragma once

#include "cuda/kernels/columns.cuh"
#include "cuda/kernels/vectors.cuh"

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
  const float size = static_cast<float>(x.cols);
  float sum = 0, squares = 0;
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8];
    load8_floats(&x.at(row, col), count, v);
    LOWRANK_UNROLL
    for (float value : v) sum += value;
  });
  const float centre = block_reduce(sum, Add{}, s.first) / size;
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8];
    load8_floats(&x.at(row, col), count, v);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float distance = i < count ? v[i] - centre : 0;
      squares = multiply_add(distance, distance, squares);
    }
  });
  const float scale = 1 / sqrtf(block_reduce(squares, Add{}, s.second) / size + eps);
  if (thread_index() == 0) {
    if (mean) mean[row] = centre;
    if (rstd) rstd[row] = scale;
  }
  // y may be x: each thread writes only what it alone reads.
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8], w[8], b[8] = {};
    load8_floats(&x.at(row, col), count, v);
    load8_floats(weight + col, count, w);
    if (bias) load8_floats(bias + col, count, b);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) v[i] = multiply_add((v[i] - centre) * scale, w[i], b[i]);
    store8_floats(&y.at(row, col), count, v);
  });
}

template <typename X>
LOWRANK_KERNEL void layer_norm_backward_kernel(View<X> x, View<X> d_y, View<X> d_x, bool accumulate,
                                               const float* weight, const float* mean,
                                               const float* rstd) {
  LayerNormShared& s = shared<LayerNormShared>();
  const int64_t row = block_index().x;
  const float size = static_cast<float>(x.cols), centre = mean[row], scale = rstd[row];
  float sum = 0, product = 0;
  // v: normalized values; d: gradients of them.
  const auto load = [&](int64_t col, int64_t count, float(&v)[8], float(&d)[8]) {
    float w[8];
    load8_floats(&x.at(row, col), count, v);
    load8_floats(&d_y.at(row, col), count, d);
    load8_floats(weight + col, count, w);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) {
      v[i] = (v[i] - centre) * scale;
      d[i] *= w[i];
    }
  };
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8], d[8];
    load(col, count, v, d);  // d is 0 behind the end
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) {
      sum += d[i];
      product = multiply_add(d[i], v[i], product);
    }
  });
  sum = block_reduce(sum, Add{}, s.first) / size;
  product = block_reduce(product, Add{}, s.second) / size;
  for_each_chunk_of_row(x.cols, [&](int64_t col, int64_t count) {
    float v[8], d[8];
    load(col, count, v, d);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) d[i] = (d[i] - sum - v[i] * product) * scale;
    if (accumulate) {
      load8_floats(&d_x.at(row, col), count, v);
      LOWRANK_UNROLL
      for (int i = 0; i < 8; ++i) d[i] += v[i];
    }
    store8_floats(&d_x.at(row, col), count, d);
  });
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
