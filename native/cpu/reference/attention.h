// Causal grouped-query attention over packed documents, and its gradient with the probabilities
// recomputed from the log-sum-exp (Dao, arXiv 2307.08691):
//   P = exp(scale q.k - lse), D = sum(d_out * out), dS = P * (d_out.v - D),
//   dq = scale dS k, dk = scale dS^T q, dv = P^T d_out.
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/reference/scalar.h"

namespace lowrank::reference {

struct AttentionLayout {
  const int32_t* q_offsets = nullptr;
  const int32_t* k_offsets = nullptr;
  int64_t documents = 0, heads = 0, kv_heads = 0, head_dim = 0, window = 0;
  double scale = 1;
};

// The key rows [begin, end) that query row `query` of document `d` sees.
struct KeyRange {
  int64_t begin = 0, end = 0;
};
inline KeyRange visible_keys(const AttentionLayout& layout, int64_t d, int64_t query) {
  const int64_t lq = layout.q_offsets[d + 1] - layout.q_offsets[d];
  const int64_t first = layout.k_offsets[d], lk = layout.k_offsets[d + 1] - first;
  const int64_t last = query - layout.q_offsets[d] + lk - lq;
  const int64_t low = layout.window > 0 ? std::max<int64_t>(0, last - layout.window + 1) : 0;
  return {first + low, first + last + 1};
}

template <typename S, typename X>
S dot(View<X> a, int64_t row_a, int64_t col_a, View<X> b, int64_t row_b, int64_t col_b, int64_t n) {
  S sum{};
  for (int64_t i = 0; i < n; ++i)
    sum += load<S>(a.at(row_a, col_a + i)) * load<S>(b.at(row_b, col_b + i));
  return sum;
}

// lse [heads, q.rows] may be null.
template <typename S, typename X, typename P>
void attention_forward(const AttentionLayout& layout, View<X> q, View<X> k, View<X> v, View<X> out,
                       P* lse) {
  const int64_t dim = layout.head_dim, group = layout.heads / layout.kv_heads;
  std::vector<S> weights(static_cast<size_t>(k.rows));
  for (int64_t d = 0; d < layout.documents; ++d) {
    for (int64_t head = 0; head < layout.heads; ++head) {
      const int64_t q_col = head * dim, kv_col = head / group * dim;
      for (int64_t t = layout.q_offsets[d]; t < layout.q_offsets[d + 1]; ++t) {
        const KeyRange keys = visible_keys(layout, d, t);
        double largest = -INFINITY;
        for (int64_t j = keys.begin; j < keys.end; ++j) {
          weights[j] = S(layout.scale) * dot<S>(q, t, q_col, k, j, kv_col, dim);
          largest = std::max(largest, real_part(weights[j]));
        }
        S sum{};
        for (int64_t j = keys.begin; j < keys.end; ++j) {
          weights[j] = std::exp(weights[j] - S(largest));
          sum += weights[j];
        }
        for (int64_t i = 0; i < dim; ++i) {
          S value{};
          for (int64_t j = keys.begin; j < keys.end; ++j)
            value += weights[j] * load<S>(v.at(j, kv_col + i));
          out.at(t, q_col + i) = store<X>(value / sum);
        }
        if (lse) lse[head * q.rows + t] = store<P>(S(largest) + std::log(sum));
      }
    }
  }
}

template <typename S, typename X, typename P>
void attention_backward(const AttentionLayout& layout, View<X> q, View<X> k, View<X> v, View<X> out,
                        const P* lse, View<X> d_out, View<X> d_q, View<X> d_k, View<X> d_v) {
  const int64_t dim = layout.head_dim, group = layout.heads / layout.kv_heads;
  const int64_t kv_cols = layout.kv_heads * dim;
  std::vector<S> sum_k(static_cast<size_t>(k.rows * kv_cols)), sum_v(sum_k.size());
  std::vector<S> sum_q(static_cast<size_t>(dim));
  for (int64_t d = 0; d < layout.documents; ++d) {
    for (int64_t head = 0; head < layout.heads; ++head) {
      const int64_t q_col = head * dim, kv_col = head / group * dim;
      for (int64_t t = layout.q_offsets[d]; t < layout.q_offsets[d + 1]; ++t) {
        const KeyRange keys = visible_keys(layout, d, t);
        const S delta = dot<S>(d_out, t, q_col, out, t, q_col, dim);
        std::fill(sum_q.begin(), sum_q.end(), S{});
        for (int64_t j = keys.begin; j < keys.end; ++j) {
          const S score = S(layout.scale) * dot<S>(q, t, q_col, k, j, kv_col, dim);
          const S p = std::exp(score - load<S>(lse[head * q.rows + t]));
          const S d_p = dot<S>(d_out, t, q_col, v, j, kv_col, dim);
          const S d_s = S(layout.scale) * p * (d_p - delta);
          for (int64_t i = 0; i < dim; ++i) {
            sum_q[i] += d_s * load<S>(k.at(j, kv_col + i));
            sum_k[j * kv_cols + kv_col + i] += d_s * load<S>(q.at(t, q_col + i));
            sum_v[j * kv_cols + kv_col + i] += p * load<S>(d_out.at(t, q_col + i));
          }
        }
        // d_q may be d_out: this row and head of d_out were read for the last time.
        for (int64_t i = 0; i < dim; ++i) d_q.at(t, q_col + i) = store<X>(sum_q[i]);
      }
    }
  }
  for (int64_t j = 0; j < k.rows; ++j) {
    for (int64_t i = 0; i < kv_cols; ++i) {
      d_k.at(j, i) = store<X>(sum_k[j * kv_cols + i]);
      d_v.at(j, i) = store<X>(sum_v[j * kv_cols + i]);
    }
  }
}

}  // namespace lowrank::reference
