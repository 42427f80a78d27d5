// The gradient of attention over bf16 with matrix instructions; the formulas stand in
// attention.cuh. One kernel walks over queries for a tile of keys, another over keys for one of
// queries: no atomics. The rows of the score matrix are the rows that a block keeps, so that in
// both kernels the weights' fragments are left operands of what they are multiplied by.
#pragma once

#include "cuda/kernels/attention_mma_tile.cuh"

namespace lowrank::cuda {

// Heads to 128 have room for two rounds of tiles: one is copied while the other is multiplied.
template <int D>
struct MmaBackwardShared {
  static constexpr int kStages = D > 128 ? 1 : 2;
  MmaRows<D, MmaTile<D>::kRows> own_first, own_second;
  MmaRows<D, MmaTile<D>::kBackwardCols> first[kStages], second[kStages];
};

// Calls copy(n, stage) and use(n, stage) for the rounds [0, rounds), copies as early as there is
// room for them. What was copied before goes with the first round.
template <int kStages, typename Copy, typename Use>
LOWRANK_DEVICE inline void for_each_round(int64_t rounds, const Copy& copy, const Use& use) {
  if (rounds > 0) copy(int64_t{0}, 0);
  copies_commit();
  for (int64_t n = 0; n < rounds; ++n) {
    if (kStages == 2 && n + 1 < rounds) copy(n + 1, static_cast<int>((n + 1) % kStages));
    copies_commit();
    copies_wait<1>();
    block_sync();
    use(n, static_cast<int>(n % kStages));
    block_sync();  // every warp has read this round's tiles
    if (kStages == 1 && n + 1 < rounds) copy(n + 1, 0);
    if (kStages == 1) copies_commit();
  }
  copies_wait<0>();
}

// Gradients of a tile of keys and values; grid: stretches of keys x key heads.
template <int D>
LOWRANK_KERNEL void attention_mma_keys_kernel(AttentionArguments a, View<BF16> q, View<BF16> k,
                                              View<BF16> v, View<BF16> d_out, const float* lse,
                                              const float* delta, View<BF16> d_k, View<BF16> d_v) {
  using Tile = MmaTile<D>;
  using Shared = MmaBackwardShared<D>;
  constexpr int kCols = Tile::kBackwardCols;
  Shared& s = shared<Shared>();
  Stretch stretch;
  if (!find_stretch(a, block_index().x, Tile::kRows, true, &stretch)) return;
  const int dim = a.head_dim;
  const int64_t kv_head = block_index().y, kv_col = kv_head * dim, group = a.heads / a.kv_heads;
  const int64_t first = stretch.k_first + stretch.begin, keys = stretch.end - stretch.begin;
  const RowRange queries = queries_of_keys(a, stretch);
  const int64_t tiles = divide_up(larger<int64_t>(0, queries.end - queries.begin), kCols);
  copy_head<D, Tile::kRows>(s.own_first, k, first, keys, kv_col, dim);
  copy_head<D, Tile::kRows>(s.own_second, v, first, keys, kv_col, dim);
  WarpRows<Tile::kPart> key_sums, value_sums;
  // Round n: one tile of queries of one head of the group.
  for_each_round<Shared::kStages>(
      group * tiles,
      [&](int64_t n, int stage) {
        const int64_t head = kv_head * group + n / tiles;
        const int64_t query0 = queries.begin + n % tiles * kCols, row = stretch.q_first + query0;
        const int64_t count = stretch.q_count - query0;
        copy_head<D, kCols>(s.first[stage], q, row, count, head * dim, dim);
        copy_head<D, kCols>(s.second[stage], d_out, row, count, head * dim, dim);
      },
      [&](int64_t n, int stage) {
        const int64_t head = kv_head * group + n / tiles;
        const int64_t query0 = queries.begin + n % tiles * kCols;
        WarpRows<kCols> weights, d_scores;
        warp_products<D>(s.own_first, s.first[stage], weights);
        warp_products<D>(s.own_second, s.second[stage], d_scores);
        const SeenColumns seen = seen_queries(a, stretch, stretch.begin + Tile::row(), query0);
        const int64_t at = head * a.query_rows + stretch.q_first + query0;
        LOWRANK_UNROLL
        for (int pair = 0; pair < kCols / 4; ++pair) {  // each column of this lane
          const int j = pair / 2, col = j * 8 + fragment_col(pair % 2);
          const bool inside = query0 + col < stretch.q_count;
          const float log_sum = inside ? lse[at + col] : 0,
                      own_delta = inside ? delta[at + col] : 0;
          LOWRANK_UNROLL
          for (int e = pair % 2; e < 4; e += 2) {
            float &weight = weights.v[j][e], &d_score = d_scores.v[j][e];
            const bool is_seen = seen(col, e);
            weight = is_seen ? expf(weight * a.scale - log_sum) : 0;
            d_score = is_seen ? weight * (d_score - own_delta) * a.scale : 0;
          }
        }
        add_products<D>(weights, s.second[stage], value_sums);
        add_products<D>(d_scores, s.first[stage], key_sums);
      });
  store_head<D>(key_sums, d_k, first, keys, kv_col, dim);
  store_head<D>(value_sums, d_v, first, keys, kv_col, dim);
}

// Gradient of a tile of queries; grid: stretches of queries x heads. d_q may be d_out: a block
// reads its rows and head of d_out at the beginning and alone.
template <int D>
LOWRANK_KERNEL void attention_mma_queries_kernel(AttentionArguments a, View<BF16> q, View<BF16> k,
                                                 View<BF16> v, View<BF16> d_out, const float* lse,
                                                 const float* delta, View<BF16> d_q) {
  using Tile = MmaTile<D>;
  using Shared = MmaBackwardShared<D>;
  constexpr int kCols = Tile::kBackwardCols;
  Shared& s = shared<Shared>();
  Stretch stretch;
  if (!find_stretch(a, block_index().x, Tile::kRows, false, &stretch)) return;
  const int dim = a.head_dim;
  const int64_t head = block_index().y, q_col = head * dim;
  const int64_t kv_col = head / (a.heads / a.kv_heads) * dim;
  const int64_t first = stretch.q_first + stretch.begin, queries = stretch.end - stretch.begin;
  const RowRange keys = keys_of_queries(a, stretch);
  copy_head<D, Tile::kRows>(s.own_first, q, first, queries, q_col, dim);
  copy_head<D, Tile::kRows>(s.own_second, d_out, first, queries, q_col, dim);
  float log_sum[2] = {0, 0}, own_delta[2] = {0, 0};  // of rows g and g + 8
  LOWRANK_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int row = Tile::row() + fragment_row(2 * half);
    if (row >= queries) continue;
    log_sum[half] = lse[head * a.query_rows + first + row];
    own_delta[half] = delta[head * a.query_rows + first + row];
  }
  WarpRows<Tile::kPart> sums;
  for_each_round<Shared::kStages>(
      divide_up(keys.end - keys.begin, kCols),
      [&](int64_t n, int stage) {
        const int64_t key0 = keys.begin + n * kCols, row = stretch.k_first + key0;
        const int64_t count = stretch.k_count - key0;
        copy_head<D, kCols>(s.first[stage], k, row, count, kv_col, dim);
        copy_head<D, kCols>(s.second[stage], v, row, count, kv_col, dim);
      },
      [&](int64_t n, int stage) {
        WarpRows<kCols> scores, d_scores;
        warp_products<D>(s.own_first, s.first[stage], scores);
        warp_products<D>(s.own_second, s.second[stage], d_scores);
        const int64_t key0 = keys.begin + n * kCols;
        const SeenColumns seen = seen_keys(a, stretch, stretch.begin + Tile::row(), key0);
        for_each_value<kCols>([&](int j, int e) {
          const float weight = expf(scores.v[j][e] * a.scale - log_sum[e / 2]);
          d_scores.v[j][e] = seen(j * 8 + fragment_col(e), e)
                                 ? weight * (d_scores.v[j][e] - own_delta[e / 2]) * a.scale
                                 : 0;
        });
        add_products<D>(d_scores, s.first[stage], sums);
      });
  store_head<D>(sums, d_q, first, queries, q_col, dim);
}

}  // namespace lowrank::cuda
