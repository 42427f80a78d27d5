// Embedding lookup, and its gradient without atomics: the block of the first token with an id adds
// the rows of every token with that id, in row order.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace lowrank::cuda {

template <typename X>
LOWRANK_KERNEL void embedding_kernel(const int32_t* ids, Weight weight, const Tables* tables,
                                     View<X> y) {
  for_each_element(y.rows, y.cols, [&](int64_t row, int64_t col) {
    const int64_t index = int64_t{ids[row]} * weight.cols + col;
    y.at(row, col) = element_from<X>(weight_value(weight, *tables, index));
  });
}

struct EmbeddingShared {
  SharedArray<int, 1> repeated;
};

// One block per token; every thread takes columns.
template <typename X>
LOWRANK_KERNEL void embedding_backward_kernel(const int32_t* ids, View<X> d_y, float* d_weight,
                                              int32_t padding_id) {
  EmbeddingShared& s = shared<EmbeddingShared>();
  const int64_t token = block_index().x;
  const int32_t id = ids[token];
  if (id == padding_id) return;  // the whole block
  if (thread_index() == 0) s.repeated[0] = 0;
  block_sync();
  for (int64_t t = thread_index(); t < token; t += block_size())
    if (ids[t] == id) s.repeated[0] = 1;  // all writers write the same
  block_sync();
  if (s.repeated[0]) return;
  float* row = d_weight + id * d_y.cols;
  for (int64_t t = token; t < d_y.rows; ++t) {
    if (ids[t] != id) continue;
    for (int64_t col = thread_index(); col < d_y.cols; col += block_size())
      row[col] += as_float(d_y.at(t, col));
  }
}

}  // namespace lowrank::cuda
