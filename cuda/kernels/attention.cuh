// Causal attention over packed documents with an online softmax (Dao et al., arXiv 2205.14135), and
// its gradient with the probabilities recomputed (Dao, arXiv 2307.08691):
//   P = exp(scale q.k - lse), D = sum(d_out * out), dS = P * (d_out.v - D),
//   dq = scale dS k, dk = scale dS^T q, dv = P^T d_out.
// No atomics: one kernel walks over queries for a tile of keys, another over keys for one of
// queries. These are the kernels over f32, in plain arithmetic; attention_mma.cuh has those over
// bf16.
#pragma once

#include "cuda/kernels/attention_tile.cuh"

namespace lowrank::cuda {

template <int D>
struct AttentionShared {
  static constexpr size_t kSize =
      static_cast<size_t>(AttentionTile<D>::kRows * AttentionTile<D>::kStride);
  SharedArray<float, kSize> q, kv;  // kv holds keys, then values
  WeightTile<D> p;
};

// grid: stretches of queries x heads.
template <int D>
LOWRANK_KERNEL void attention_kernel(AttentionArguments a, View<float> q, View<float> k,
                                     View<float> v, View<float> out, float* lse) {
  using Tile = AttentionTile<D>;
  AttentionShared<D>& s = shared<AttentionShared<D>>();
  Stretch stretch;
  if (!find_stretch(a, block_index().x, Tile::kRows, false, &stretch)) return;
  const int dim = a.head_dim;
  const int64_t head = block_index().y, q_col = head * dim;
  const int64_t kv_col = head / (a.heads / a.kv_heads) * dim;
  const int64_t query = stretch.begin + Tile::row();
  load_rows<D>(s.q, q, stretch.q_first + stretch.begin, stretch.end - stretch.begin, q_col, dim);
  float sums[Tile::kDims] = {}, largest = -INFINITY, total = 0;
  const RowRange seen_keys = keys_of_queries(a, stretch);
  for (int64_t key0 = seen_keys.begin; key0 < seen_keys.end; key0 += Tile::kRows) {
    const int64_t keys = smaller<int64_t>(Tile::kRows, stretch.k_count - key0);
    load_rows<D>(s.kv, k, stretch.k_first + key0, keys, kv_col, dim);
    block_sync();
    float scores[Tile::kCols];
    multiply_rows<D>(s.q, s.kv, dim, scores);
    float top = largest;
    LOWRANK_UNROLL
    for (int j = 0; j < Tile::kCols; ++j) {
      const int64_t key = key0 + Tile::part() + j * Tile::kLanes;
      scores[j] = sees(a, stretch, query, key) ? scores[j] * a.scale : -INFINITY;
      top = Largest{}(scores[j], top);
    }
    top = warp_reduce(top, Largest{}, Tile::kLanes);
    // A row that sees none of the keys so far keeps its zeros.
    const float base = top == -INFINITY ? 0 : top, factor = expf(largest - base);
    float sum = 0;
    for (float& score : scores) {
      score = expf(score - base);
      sum += score;
    }
    total = total * factor + warp_reduce(sum, Add{}, Tile::kLanes);
    largest = top;
    for (float& value : sums) value *= factor;
    block_sync();  // every thread has read the keys
    load_rows<D>(s.kv, v, stretch.k_first + key0, keys, kv_col, dim);
    store_weights<D>(s.p, scores);
    block_sync();
    add_weighted<D>(s.p, s.kv, dim, sums);
    block_sync();
  }
  if (query >= stretch.end) return;
  const int64_t row = stretch.q_first + query;
  LOWRANK_UNROLL
  for (int i = 0; i < Tile::kDims; ++i) {
    const int col = Tile::part() + i * Tile::kLanes;
    if (col < dim) out.at(row, q_col + col) = sums[i] / total;
  }
  if (lse && Tile::part() == 0) lse[head * a.query_rows + row] = largest + logf(total);
}

// delta [heads, rows] = sum over a head of d_out * out; one warp each.
template <typename X>
LOWRANK_KERNEL void attention_delta_kernel(AttentionArguments a, View<X> out, View<X> d_out,
                                           float* delta) {
  const int64_t row = int64_t{block_index().x} * (kAttentionThreads / kWarp) + warp_index();
  const int64_t head = block_index().y;
  if (row >= a.query_rows) return;  // the whole warp
  float sum = 0;
  for (int64_t i = lane_index(); i < a.head_dim; i += kWarp)
    sum = multiply_add(as_float(out.at(row, head * a.head_dim + i)),
                       as_float(d_out.at(row, head * a.head_dim + i)), sum);
  sum = warp_reduce(sum, Add{});
  if (lane_index() == 0) delta[head * a.query_rows + row] = sum;
}

template <int D>
struct AttentionBackwardShared {
  static constexpr size_t kSize = AttentionShared<D>::kSize;
  SharedArray<float, kSize> q, d_out, k, v;
  WeightTile<D> p, d_s;
};

// Gradients of a tile of keys and values; grid: stretches of keys x key heads. Rows of the score
// matrix are keys here.
template <int D>
LOWRANK_KERNEL void attention_keys_kernel(AttentionArguments a, View<float> q, View<float> k,
                                          View<float> v, View<float> d_out, const float* lse,
                                          const float* delta, View<float> d_k, View<float> d_v) {
  using Tile = AttentionTile<D>;
  AttentionBackwardShared<D>& s = shared<AttentionBackwardShared<D>>();
  Stretch stretch;
  if (!find_stretch(a, block_index().x, Tile::kRows, true, &stretch)) return;
  const int dim = a.head_dim;
  const int64_t kv_head = block_index().y, kv_col = kv_head * dim, group = a.heads / a.kv_heads;
  const int64_t first = stretch.k_first + stretch.begin, keys = stretch.end - stretch.begin;
  load_rows<D>(s.k, k, first, keys, kv_col, dim);
  load_rows<D>(s.v, v, first, keys, kv_col, dim);
  const int64_t key = stretch.begin + Tile::row();
  const RowRange range = queries_of_keys(a, stretch);
  float key_sums[Tile::kDims] = {}, value_sums[Tile::kDims] = {};
  for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    for (int64_t query0 = range.begin; query0 < range.end; query0 += Tile::kRows) {
      const int64_t row0 = stretch.q_first + query0;
      const int64_t queries = smaller<int64_t>(Tile::kRows, stretch.q_count - query0);
      block_sync();  // the last round's tiles have been read
      load_rows<D>(s.q, q, row0, queries, head * dim, dim);
      load_rows<D>(s.d_out, d_out, row0, queries, head * dim, dim);
      block_sync();
      float scores[Tile::kCols], d_p[Tile::kCols];
      multiply_rows<D>(s.k, s.q, dim, scores);
      multiply_rows<D>(s.v, s.d_out, dim, d_p);
      LOWRANK_UNROLL
      for (int j = 0; j < Tile::kCols; ++j) {
        const int64_t query = query0 + Tile::part() + j * Tile::kLanes;
        if (key < stretch.end && sees(a, stretch, query, key)) {
          const int64_t at = head * a.query_rows + stretch.q_first + query;
          scores[j] = expf(scores[j] * a.scale - lse[at]);
          d_p[j] = scores[j] * (d_p[j] - delta[at]) * a.scale;
        } else {
          scores[j] = d_p[j] = 0;
        }
      }
      store_weights<D>(s.p, scores);
      store_weights<D>(s.d_s, d_p);
      block_sync();
      add_weighted<D>(s.p, s.d_out, dim, value_sums);
      add_weighted<D>(s.d_s, s.q, dim, key_sums);
    }
  }
  if (key >= stretch.end) return;
  LOWRANK_UNROLL
  for (int i = 0; i < Tile::kDims; ++i) {
    const int col = Tile::part() + i * Tile::kLanes;
    if (col >= dim) continue;
    d_k.at(stretch.k_first + key, kv_col + col) = key_sums[i];
    d_v.at(stretch.k_first + key, kv_col + col) = value_sums[i];
  }
}

// Gradient of a tile of queries; grid: stretches of queries x heads. d_q may be d_out: a block
// reads its rows and head of d_out at the beginning and alone.
template <int D>
LOWRANK_KERNEL void attention_queries_kernel(AttentionArguments a, View<float> q, View<float> k,
                                             View<float> v, View<float> d_out, const float* lse,
                                             const float* delta, View<float> d_q) {
  using Tile = AttentionTile<D>;
  AttentionBackwardShared<D>& s = shared<AttentionBackwardShared<D>>();
  Stretch stretch;
  if (!find_stretch(a, block_index().x, Tile::kRows, false, &stretch)) return;
  const int dim = a.head_dim;
  const int64_t head = block_index().y, q_col = head * dim;
  const int64_t kv_col = head / (a.heads / a.kv_heads) * dim;
  const int64_t first = stretch.q_first + stretch.begin, queries = stretch.end - stretch.begin;
  const int64_t query = stretch.begin + Tile::row();
  load_rows<D>(s.q, q, first, queries, q_col, dim);
  load_rows<D>(s.d_out, d_out, first, queries, q_col, dim);
  const bool inside = query < stretch.end;
  const int64_t at = head * a.query_rows + stretch.q_first + query;
  const float log_sum = inside ? lse[at] : 0, own_delta = inside ? delta[at] : 0;
  float sums[Tile::kDims] = {};
  const RowRange seen_keys = keys_of_queries(a, stretch);
  for (int64_t key0 = seen_keys.begin; key0 < seen_keys.end; key0 += Tile::kRows) {
    const int64_t keys = smaller<int64_t>(Tile::kRows, stretch.k_count - key0);
    block_sync();  // the last round's tiles have been read
    load_rows<D>(s.k, k, stretch.k_first + key0, keys, kv_col, dim);
    load_rows<D>(s.v, v, stretch.k_first + key0, keys, kv_col, dim);
    block_sync();
    float scores[Tile::kCols], d_p[Tile::kCols];
    multiply_rows<D>(s.q, s.k, dim, scores);
    multiply_rows<D>(s.d_out, s.v, dim, d_p);
    LOWRANK_UNROLL
    for (int j = 0; j < Tile::kCols; ++j) {
      const int64_t key = key0 + Tile::part() + j * Tile::kLanes;
      const bool seen = inside && sees(a, stretch, query, key);
      d_p[j] = seen ? expf(scores[j] * a.scale - log_sum) * (d_p[j] - own_delta) * a.scale : 0;
    }
    store_weights<D>(s.d_s, d_p);
    block_sync();
    add_weighted<D>(s.d_s, s.k, dim, sums);
  }
  if (!inside) return;
  LOWRANK_UNROLL
  for (int i = 0; i < Tile::kDims; ++i) {
    const int col = Tile::part() + i * Tile::kLanes;
    if (col < dim) d_q.at(stretch.q_first + query, q_col + col) = sums[i];
  }
}

}  // namespace lowrank::cuda
