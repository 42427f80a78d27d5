// From a row of logits to its log-probability and, in the logits' place, the gradient
//   d logit[v] = -weight * ((v == target) - softmax(logits)[v]).
#pragma once

#include "cuda/kernels/rows.cuh"

namespace lowrank::cuda {

inline constexpr unsigned kSoftmaxThreads = 256;

struct SoftmaxShared {
  SharedArray<float, kSoftmaxThreads / kWarp> sums;
};

// One block per row of logits [count, vocabulary]. `weights` null: the logits stay as they are.
LOWRANK_KERNEL void softmax_kernel(float* logits, int64_t vocabulary, const int32_t* targets,
                                   const float* weights, float* logprob, uint8_t* correct) {
  SoftmaxShared& s = shared<SoftmaxShared>();
  const int64_t row = block_index().x;
  float* values = logits + row * vocabulary;
  const int32_t target = targets[row];
  float top = -INFINITY;
  for (int64_t v = thread_index(); v < vocabulary; v += kSoftmaxThreads)
    top = Largest{}(values[v], top);
  top = block_reduce(top, Largest{}, s.sums);
  block_sync();
  float sum = 0;
  for (int64_t v = thread_index(); v < vocabulary; v += kSoftmaxThreads)
    sum += expf(values[v] - top);
  sum = block_reduce(sum, Add{}, s.sums);
  const float log_sum = top + logf(sum), label = values[target];
  if (thread_index() == 0) {
    logprob[row] = label - log_sum;
    if (correct) correct[row] = label >= top;
  }
  if (!weights) return;
  block_sync();  // the label's logit has been read
  const float weight = weights[row];
  for (int64_t v = thread_index(); v < vocabulary; v += kSoftmaxThreads)
    values[v] = -weight * ((v == target ? 1.0f : 0.0f) - expf(values[v] - log_sum));
}

template <typename X>
LOWRANK_KERNEL void zero_kernel(View<X> x) {
  for_each_element(x.rows, x.cols,
                   [&](int64_t row, int64_t col) { x.at(row, col) = element_from<X>(0); });
}

}  // namespace lowrank::cuda
