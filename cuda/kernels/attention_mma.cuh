// Attention over bf16 with matrix instructions, after FlashAttention-2 (Dao, arXiv 2307.08691):
// each warp holds 16 rows of the scores and of the result in registers, so that a softmax needs no
// shared memory, and the weights go from one product to the next without leaving their lanes.
// Values are copied while scores are computed, the next keys during the second product.
#pragma once

#include "cuda/kernels/attention_mma_tile.cuh"

namespace lowrank::cuda {

template <int D>
struct MmaShared {
  MmaRows<D, MmaTile<D>::kRows> q;
  MmaRows<D, MmaTile<D>::kForwardCols> k, v;
};

// Online softmax of two rows of each lane, g and g + 8 (Milakov & Gimelshein, arXiv 1805.02867).
struct RowSoftmax {
  float largest[2] = {-INFINITY, -INFINITY};
  float total[2] = {0, 0};  // of this lane's columns

  // Turns scores into exp(score - largest); factor[] is what earlier results are multiplied by. A
  // row that has seen no key so far keeps its zeros.
  template <int kCols>
  LOWRANK_DEVICE inline void update(WarpRows<kCols>& scores, float (&factor)[2]) {
    float top[2] = {largest[0], largest[1]}, base[2];
    for_each_value<kCols>(
        [&](int j, int e) { top[e / 2] = Largest{}(scores.v[j][e], top[e / 2]); });
    LOWRANK_UNROLL
    for (int half = 0; half < 2; ++half) {
      top[half] = warp_reduce(top[half], Largest{}, 4);
      base[half] = top[half] == -INFINITY ? 0 : top[half];
      factor[half] = expf(largest[half] - base[half]);
      largest[half] = top[half];
      total[half] *= factor[half];
    }
    for_each_value<kCols>([&](int j, int e) {
      scores.v[j][e] = expf(scores.v[j][e] - base[e / 2]);
      total[e / 2] += scores.v[j][e];
    });
  }
};

// grid: stretches of queries x heads.
template <int D>
LOWRANK_KERNEL void attention_mma_kernel(AttentionArguments a, View<BF16> q, View<BF16> k,
                                         View<BF16> v, View<BF16> out, float* lse) {
  using Tile = MmaTile<D>;
  constexpr int kCols = Tile::kForwardCols;
  MmaShared<D>& s = shared<MmaShared<D>>();
  Stretch stretch;
  if (!find_stretch(a, block_index().x, Tile::kRows, false, &stretch)) return;
  const int dim = a.head_dim;
  const int64_t head = block_index().y, q_col = head * dim;
  const int64_t kv_col = head / (a.heads / a.kv_heads) * dim;
  const int64_t first = stretch.q_first + stretch.begin, queries = stretch.end - stretch.begin;
  const RowRange keys = keys_of_queries(a, stretch);
  const auto copy = [&](auto& tile, const View<BF16>& from, int64_t key) {
    if (key < keys.end)
      copy_head<D, kCols>(tile, from, stretch.k_first + key, stretch.k_count - key, kv_col, dim);
    copies_commit();
  };
  copy_head<D, Tile::kRows>(s.q, q, first, queries, q_col, dim);
  copy(s.k, k, keys.begin);
  WarpRows<Tile::kPart> sums;
  RowSoftmax softmax;
  for (int64_t key0 = keys.begin; key0 < keys.end; key0 += kCols) {
    copy(s.v, v, key0);
    copies_wait<1>();  // all but the values
    block_sync();
    WarpRows<kCols> scores;
    warp_products<D>(s.q, s.k, scores);
    block_sync();  // every warp has read the keys
    copy(s.k, k, key0 + kCols);
    const SeenColumns seen = seen_keys(a, stretch, stretch.begin + Tile::row(), key0);
    for_each_value<kCols>([&](int j, int e) {
      float& score = scores.v[j][e];
      score = seen(j * 8 + fragment_col(e), e) ? score * a.scale : -INFINITY;
    });
    float factor[2];
    softmax.update(scores, factor);
    for_each_value<Tile::kPart>([&](int j, int e) { sums.v[j][e] *= factor[e / 2]; });
    copies_wait<1>();  // all but the next keys
    block_sync();
    add_products<D>(scores, s.v, sums);
    block_sync();  // every warp has read the values
  }
  copies_wait<0>();
  float total[2];
  for (int half = 0; half < 2; ++half) {
    total[half] = warp_reduce(softmax.total[half], Add{}, 4);
    const int row = Tile::row() + fragment_row(2 * half);
    if (lse && row < queries && lane_index() % 4 == 0 && Tile::part() == 0)
      lse[head * a.query_rows + first + row] = softmax.largest[half] + logf(total[half]);
  }
  for_each_value<Tile::kPart>([&](int j, int e) { sums.v[j][e] /= total[e / 2]; });
  store_head<D>(sums, out, first, queries, q_col, dim);
}

}  // namespace lowrank::cuda
