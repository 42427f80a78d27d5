// From a row of logits to its log-probability and, in the logits' place, the gradient
//   d logit[v] = -weight * ((v == target) - softmax(logits)[v]),
// and between the rows that have a label and a matrix of them alone.
#pragma once

#include "cuda/kernels/vectors.cuh"

namespace lowrank::cuda {

inline constexpr unsigned kSoftmaxThreads = 256;

struct SoftmaxShared {
  SharedArray<float, kSoftmaxThreads / kWarp> sums;
};

// One block per row of logits [count, vocabulary]. `weights` null: the logits stay as they are.
// D: the gradient's type. A row of bf16 begins where its logits do and fills half of their memory.
template <typename D>
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
  const float weight = weights[row];
  D* gradients = reinterpret_cast<D*>(values);
  for (int64_t first = 0; first < vocabulary; first += kSoftmaxThreads) {
    const int64_t v = first + thread_index();
    const float softmax = v < vocabulary ? expf(values[v] - log_sum) : 0;
    block_sync();  // all logits that this stretch of gradients overwrites have been read
    if (v < vocabulary)
      gradients[v] = element_from<D>(-weight * ((v == target ? 1.0f : 0.0f) - softmax));
  }
}

// packed[i] = x[rows[i]].
template <typename X>
LOWRANK_KERNEL void take_rows_kernel(View<X> x, const int32_t* rows, View<X> packed) {
  for_each_chunk(packed.rows, packed.cols, [&](int64_t row, int64_t col, int64_t count) {
    float values[8];
    load8_floats(&x.at(rows[row], col), count, values);
    store8_floats(&packed.at(row, col), count, values);
  });
}

// x[rows[i]] = packed[i].
template <typename X>
LOWRANK_KERNEL void put_rows_kernel(View<X> packed, const int32_t* rows, View<X> x) {
  for_each_chunk(packed.rows, packed.cols, [&](int64_t row, int64_t col, int64_t count) {
    float values[8];
    load8_floats(&packed.at(row, col), count, values);
    store8_floats(&x.at(rows[row], col), count, values);
  });
}

template <typename X>
LOWRANK_KERNEL void zero_kernel(View<X> x) {
  for_each_element(x.rows, x.cols,
                   [&](int64_t row, int64_t col) { x.at(row, col) = element_from<X>(0); });
}

}  // namespace lowrank::cuda
