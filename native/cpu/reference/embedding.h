// Embedding lookup, and the scatter-add of its gradient in row order.
#pragma once

#include "cpu/reference/scalar.h"
#include "cpu/reference/weight.h"

namespace lowrank::reference {

template <typename S, typename X, typename GetWeight>
void embedding_forward(const int32_t* ids, const GetWeight& weight, View<X> y) {
  for (int64_t t = 0; t < y.rows; ++t) {
    for (int64_t i = 0; i < y.cols; ++i) y.at(t, i) = store<X>(S(weight(ids[t], i)));
  }
}

template <typename S, typename X, typename P>
void embedding_backward(const int32_t* ids, View<X> d_y, P* d_weight, int32_t padding_id) {
  for (int64_t t = 0; t < d_y.rows; ++t) {
    if (ids[t] == padding_id) continue;
    for (int64_t i = 0; i < d_y.cols; ++i) {
      P& target = d_weight[ids[t] * d_y.cols + i];
      target = store<P>(load<S>(target) + load<S>(d_y.at(t, i)));
    }
  }
}

}  // namespace lowrank::reference
