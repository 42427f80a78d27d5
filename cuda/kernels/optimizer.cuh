// AdamW over all tensors in one launch, the squared norm, and what clipping to it makes of
// gradients. Blocks find their tensor in a staged list by where its blocks begin. The formula
// stands in native/backend/backend.h; the 8-bit form has the same bits as
// native/cpu/reference/adamw_8bit.h.
#pragma once

#include "core/clip_scale.h"
#include "cuda/kernels/eight_bit.cuh"

namespace lowrank::cuda {

// One tensor's step; constants are computed in f64 and rounded once.
struct AdamWWork {
  AdamWTensor tensor;
  int64_t first_block = 0;
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float grad_scale;
  float decay;         // 1 - lr * weight_decay
  float step_size;     // lr / (1 - beta1^step)
  float v_correction;  // 1 / sqrt(1 - beta2^step)
  float eps;
};

struct NormWork {
  const float* values = nullptr;
  int64_t count = 0;
  int64_t first_block = 0;
  bool only_finite = false;  // adds 0 to the norm, or NaN
};

// The last item whose first_block is at most `block`; items ascend, and none is empty.
template <typename Work>
LOWRANK_DEVICE inline const Work& work_of(const Work* items, int32_t count, int64_t block) {
  int32_t low = 0, high = count - 1;
  while (low < high) {
    const int32_t middle = (low + high + 1) / 2;
    if (items[middle].first_block <= block)
      low = middle;
    else
      high = middle - 1;
  }
  return items[low];
}

// One thread, so that the f64 root and quotient are computed once.
LOWRANK_KERNEL void clip_scale_kernel(const double* squared_norm, double max_norm, double* clip) {
  *clip = squared_norm ? static_cast<double>(clip_scale(sqrt(*squared_norm), max_norm)) : 1;
}

// Moves m and v and returns the parameter's new value.
LOWRANK_DEVICE inline float adamw_update(const AdamWWork& w, float clip, float parameter,
                                         float gradient, float* m, float* v) {
  const float g = gradient * (w.grad_scale * clip);
  *m = w.beta1 * *m + w.one_minus_beta1 * g;
  *v = w.beta2 * *v + w.one_minus_beta2 * (g * g);
  const float update = *m / (sqrtf(*v) * w.v_correction + w.eps);
  return parameter * w.decay - w.step_size * update;
}

inline constexpr int64_t kAdamWPerBlock = int64_t{4} * kCodeThreads;

// *clip: see clip_scale_kernel; NaN: nothing is written.
LOWRANK_KERNEL void adamw_kernel(const AdamWWork* items, int32_t count, const double* clip) {
  const auto scale = static_cast<float>(*clip);
  if (scale != scale) return;
  const AdamWWork& w = work_of(items, count, block_index().x);
  const AdamWTensor& t = w.tensor;
  const int64_t begin = (int64_t{block_index().x} - w.first_block) * kAdamWPerBlock;
  const int64_t end = smaller(t.count, begin + kAdamWPerBlock);
  for (int64_t i = begin + thread_index(); i < end; i += kCodeThreads) {
    t.parameter[i] = adamw_update(w, scale, t.parameter[i], t.gradient[i], &t.m[i], &t.v[i]);
    t.gradient[i] = 0;
  }
}

// One block per 256 values: their states share an absmax.
LOWRANK_KERNEL void adamw_8bit_kernel(const AdamWWork* items, int32_t count, const double* clip,
                                      const Tables* tables) {
  const auto scale = static_cast<float>(*clip);
  if (scale != scale) return;
  const AdamWWork& w = work_of(items, count, block_index().x);
  const AdamWTensor& t = w.tensor;
  const int64_t block = int64_t{block_index().x} - w.first_block;
  const int64_t begin = block * kOptimizerBlock, i = begin + thread_index();
  const int64_t size = smaller<int64_t>(kOptimizerBlock, t.count - begin);
  float m = 0, v = 0;
  if (i < t.count) {
    m = tables->signed_map.values[t.m_codes[i]] * t.m_absmax[block];
    v = tables->unsigned_map.values[t.v_codes[i]] * t.v_absmax[block];
    t.parameter[i] = adamw_update(w, scale, t.parameter[i], t.gradient[i], &m, &v);
    t.gradient[i] = 0;
  }
  block_sync();  // every thread has read the old absmax
  quantize_8bit(tables->signed_map, m, size, t.m_codes + begin, t.m_absmax + block);
  quantize_8bit(tables->unsigned_map, v, size, t.v_codes + begin, t.v_absmax + block);
}

inline constexpr unsigned kNormSumThreads = 256;
inline constexpr int64_t kNormPerBlock = int64_t{1} << 16;

struct NormSumShared {
  SharedArray<double, kNormSumThreads / kWarp> sums;
};

// partials[block] = sum of squares of one stretch of one tensor.
LOWRANK_KERNEL void squared_norm_kernel(const NormWork* items, int32_t count, double* partials) {
  const NormWork& w = work_of(items, count, block_index().x);
  const int64_t begin = (int64_t{block_index().x} - w.first_block) * kNormPerBlock;
  const int64_t end = smaller(w.count, begin + kNormPerBlock);
  double sum = 0;
  for (int64_t i = begin + thread_index(); i < end; i += kNormSumThreads) {
    const double value = static_cast<double>(w.values[i]);
    sum += value * (w.only_finite ? 0 : value);
  }
  sum = block_reduce(sum, Add{}, shared<NormSumShared>().sums);
  if (thread_index() == 0) partials[block_index().x] = sum;
}

// One block adds the partial sums in a fixed order.
LOWRANK_KERNEL void sum_partials_kernel(const double* partials, int64_t count, double* result) {
  double sum = 0;
  for (int64_t i = thread_index(); i < count; i += kNormSumThreads) sum += partials[i];
  sum = block_reduce(sum, Add{}, shared<NormSumShared>().sums);
  if (thread_index() == 0) *result = sum;
}

}  // namespace lowrank::cuda
