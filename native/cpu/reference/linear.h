// y = x W^T + bias + residual + sum over segments of scale * (dropout(x) A^T) B^T, and its gradient
// (LoRA: Hu et al., arXiv 2106.09685).
#pragma once

#include <vector>

#include "core/random.h"
#include "cpu/reference/scalar.h"
#include "cpu/reference/weight.h"

namespace lowrank::reference {

// LoraSegment with parameters of type P; the gradients may be null.
template <typename P>
struct Segment {
  int64_t row_begin = 0, row_end = 0;
  const P* a = nullptr;
  const P* b = nullptr;
  P* d_a = nullptr;
  P* d_b = nullptr;
  int64_t rank = 0;
  double scale = 1;
  float dropout = 0;
  uint64_t dropout_key = 0;
};

// What dropout multiplies element (row, col) of an input with `in` columns by: 0 or 1 / (1 - p).
template <typename P>
double dropout_factor(const Segment<P>& segment, int64_t row, int64_t col, int64_t in) {
  if (segment.dropout <= 0) return 1;
  const uint64_t index = static_cast<uint64_t>(row * in + col);
  const uint32_t threshold = dropout_threshold(segment.dropout);
  if (!dropout_keeps(segment.dropout_key, index, threshold)) return 0;
  return 1.0 / (1.0 - static_cast<double>(segment.dropout));
}

// `weight(row, col)` gives S. xa is read back as it was stored, as the backward pass will see it.
template <typename S, typename X, typename Y, typename P, typename GetWeight>
void linear_forward(View<X> x, View<Y> y, const GetWeight& weight, const P* bias, View<Y> residual,
                    const std::vector<Segment<P>>& segments, View<X> xa) {
  const int64_t in = x.cols, out = y.cols;
  for (const Segment<P>& segment : segments) {
    for (int64_t t = segment.row_begin; t < segment.row_end; ++t) {
      for (int64_t r = 0; r < segment.rank; ++r) {
        S sum{};
        for (int64_t k = 0; k < in; ++k) {
          sum += S(dropout_factor(segment, t, k, in)) * load<S>(x.at(t, k)) *
                 load<S>(segment.a[r * in + k]);
        }
        xa.at(t, r) = store<X>(sum);
      }
    }
  }
  std::vector<S> row(static_cast<size_t>(in));
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t k = 0; k < in; ++k) row[k] = weight(o, k);
    for (int64_t t = 0; t < x.rows; ++t) {
      S sum{};
      for (int64_t k = 0; k < in; ++k) sum += load<S>(x.at(t, k)) * row[k];
      if (bias) sum += load<S>(bias[o]);
      if (residual) sum += load<S>(residual.at(t, o));
      for (const Segment<P>& segment : segments) {
        if (t < segment.row_begin || t >= segment.row_end) continue;
        S update{};
        for (int64_t r = 0; r < segment.rank; ++r)
          update += load<S>(xa.at(t, r)) * load<S>(segment.b[o * segment.rank + r]);
        sum += S(segment.scale) * update;
      }
      y.at(t, o) = store<Y>(sum);
    }
  }
}

template <typename S, typename X, typename P>
void lora_backward(const Segment<P>& segment, View<X> x, View<X> d_y, View<X> xa, int64_t in,
                   std::vector<S>* d_x) {
  const int64_t out = d_y.cols, rank = segment.rank;
  std::vector<S> dy_b(static_cast<size_t>(rank));
  std::vector<S> d_a(segment.d_a ? static_cast<size_t>(rank * in) : 0);
  std::vector<S> d_b(segment.d_b ? static_cast<size_t>(out * rank) : 0);
  for (int64_t t = segment.row_begin; t < segment.row_end; ++t) {
    for (int64_t r = 0; r < rank; ++r) {
      dy_b[r] = S{};
      for (int64_t o = 0; o < out; ++o)
        dy_b[r] += load<S>(d_y.at(t, o)) * load<S>(segment.b[o * rank + r]);
      dy_b[r] *= S(segment.scale);
    }
    for (int64_t k = 0; k < in; ++k) {
      const S factor(dropout_factor(segment, t, k, in));
      for (int64_t r = 0; r < rank; ++r) {
        if (segment.d_a) d_a[r * in + k] += dy_b[r] * factor * load<S>(x.at(t, k));
        if (d_x) (*d_x)[t * in + k] += dy_b[r] * factor * load<S>(segment.a[r * in + k]);
      }
    }
    if (!segment.d_b) continue;
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t r = 0; r < rank; ++r)
        d_b[o * rank + r] += S(segment.scale) * load<S>(d_y.at(t, o)) * load<S>(xa.at(t, r));
    }
  }
  for (size_t i = 0; i < d_a.size(); ++i)
    segment.d_a[i] = store<P>(load<S>(segment.d_a[i]) + d_a[i]);
  for (size_t i = 0; i < d_b.size(); ++i)
    segment.d_b[i] = store<P>(load<S>(segment.d_b[i]) + d_b[i]);
}

// `in` is the input's width: x may be empty.
template <typename S, typename X, typename P, typename GetWeight>
void linear_backward(View<X> x, View<X> d_y, View<X> d_x, bool accumulate_d_x, int64_t in,
                     const GetWeight& weight, P* d_weight, P* d_bias,
                     const std::vector<Segment<P>>& segments, View<X> xa) {
  const int64_t tokens = d_y.rows, out = d_y.cols;
  std::vector<S> d_input(d_x ? static_cast<size_t>(tokens * in) : 0);
  if (d_x) {
    std::vector<S> row(static_cast<size_t>(in));
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < in; ++k) row[k] = weight(o, k);
      for (int64_t t = 0; t < tokens; ++t) {
        const S gradient = load<S>(d_y.at(t, o));
        for (int64_t k = 0; k < in; ++k) d_input[t * in + k] += gradient * row[k];
      }
    }
  }
  for (const Segment<P>& segment : segments)
    lora_backward<S>(segment, x, d_y, xa, in, d_x ? &d_input : nullptr);
  if (d_weight) {
    for (int64_t o = 0; o < out; ++o) {
      for (int64_t k = 0; k < in; ++k) {
        S sum = load<S>(d_weight[o * in + k]);
        for (int64_t t = 0; t < tokens; ++t) sum += load<S>(d_y.at(t, o)) * load<S>(x.at(t, k));
        d_weight[o * in + k] = store<P>(sum);
      }
    }
  }
  if (d_bias) {
    for (int64_t o = 0; o < out; ++o) {
      S sum = load<S>(d_bias[o]);
      for (int64_t t = 0; t < tokens; ++t) sum += load<S>(d_y.at(t, o));
      d_bias[o] = store<P>(sum);
    }
  }
  if (!d_x) return;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t k = 0; k < in; ++k) {
      const S before = accumulate_d_x ? load<S>(d_x.at(t, k)) : S{};
      d_x.at(t, k) = store<X>(before + d_input[t * in + k]);
    }
  }
}

}  // namespace lowrank::reference
