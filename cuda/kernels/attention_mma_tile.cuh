// What attention over bf16 is made of: tiles of one head in shared memory, and 16 rows of scores or
// of a result in the registers of a warp, as the matrix instruction holds them.
#pragma once

#include "cuda/kernels/attention_stretch.cuh"
#include "cuda/kernels/copy_tile.cuh"
#include "cuda/kernels/fragments.cuh"

namespace lowrank::cuda {

// Heads of up to D elements. Above 128 two warps share the rows, each with half of the result:
// sums of a whole row wouldn't fit the registers.
template <int D>
struct MmaTile {
  static constexpr int kSplit = D > 128 ? 2 : 1;
  static constexpr int kRows = 64 / kSplit;  // of a block: 16 per warp
  static constexpr int kPart = D / kSplit;   // result columns of a warp
  static constexpr int kStride = D + 8;      // see fragments.cuh
  static constexpr int kForwardCols = D > 128 ? 32 : 64;
  static constexpr int kBackwardCols = 32;
  static_assert(D % 16 == 0 && kPart % 16 == 0);

  LOWRANK_DEVICE static inline int row() { return static_cast<int>(warp_index()) / kSplit * 16; }
  LOWRANK_DEVICE static inline int part() {
    return static_cast<int>(warp_index()) % kSplit * kPart;
  }
};

template <int D, int kRows>
using MmaRows = SharedArray<BF16, static_cast<size_t>(kRows* MmaTile<D>::kStride)>;

// 16 rows of a matrix in a warp's registers.
template <int kCols>
struct WarpRows {
  float v[kCols / 8][4] = {};
};

// Calls body(j, e) for every element v[j][e] of a thread.
template <int kCols, typename Body>
LOWRANK_DEVICE inline void for_each_value(const Body& body) {
  LOWRANK_UNROLL
  for (int j = 0; j < kCols / 8; ++j) {
    LOWRANK_UNROLL
    for (int e = 0; e < 4; ++e) body(j, e);
  }
}

// Which columns of a round a lane's two rows see: those behind `low` up to `high`, as small numbers
// because every score asks.
struct SeenColumns {
  int low[2], high[2];  // of rows g and g + 8
  LOWRANK_DEVICE inline bool operator()(int col, int e) const {
    return col > low[e / 2] && col <= high[e / 2];
  }
  LOWRANK_DEVICE static inline int clipped(int64_t col) {
    return static_cast<int>(larger<int64_t>(-1, smaller<int64_t>(col, 64)));
  }
};

// Rows are queries from `row0` of the document on, columns keys from `key0` on.
LOWRANK_DEVICE inline SeenColumns seen_keys(const AttentionArguments& a, const Stretch& s,
                                            int64_t row0, int64_t key0) {
  SeenColumns seen;
  LOWRANK_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int64_t query = row0 + fragment_row(2 * half), last = query + s.lag() - key0;
    seen.low[half] = a.window > 0 ? SeenColumns::clipped(last - a.window) : -1;
    seen.high[half] = query < s.end ? SeenColumns::clipped(last) : -1;
  }
  return seen;
}

// Rows are keys, columns queries.
LOWRANK_DEVICE inline SeenColumns seen_queries(const AttentionArguments& a, const Stretch& s,
                                               int64_t row0, int64_t query0) {
  SeenColumns seen;
  LOWRANK_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int64_t key = row0 + fragment_row(2 * half), first = key - s.lag() - query0;
    const int64_t end = s.q_count - query0;
    const int64_t seen_end = a.window > 0 ? smaller(end, first + a.window) : end;
    seen.low[half] = SeenColumns::clipped(first - 1);
    seen.high[half] = key < s.end ? SeenColumns::clipped(seen_end - 1) : -1;
  }
  return seen;
}

// This warp's rows of `left` times the rows of `right`.
template <int D, int kCols, size_t N, size_t M>
LOWRANK_DEVICE inline void warp_products(const SharedArray<BF16, N>& left,
                                         const SharedArray<BF16, M>& right,
                                         WarpRows<kCols>& scores) {
  constexpr int kStride = MmaTile<D>::kStride;
  scores = {};
  LOWRANK_UNROLL
  for (int k = 0; k < D; k += 16) {
    Pair a[4];
    load_left(left, kStride, MmaTile<D>::row(), k, a);
    LOWRANK_UNROLL
    for (int j = 0; j < kCols; j += 16) {
      Pair b[4];
      load_right(right, kStride, j, k, b);
      multiply_fragments(scores.v[j / 8], scores.v[j / 8 + 1], a, b);
    }
  }
}

// sums += weights (rounded to bf16) times the rows of `values`, this warp's columns of them.
template <int D, int kCols, size_t N>
LOWRANK_DEVICE inline void add_products(const WarpRows<kCols>& weights,
                                        const SharedArray<BF16, N>& values,
                                        WarpRows<MmaTile<D>::kPart>& sums) {
  LOWRANK_UNROLL
  for (int j = 0; j < kCols; j += 16) {
    Pair a[4];
    left_from_sums(weights.v[j / 8], weights.v[j / 8 + 1], a);
    LOWRANK_UNROLL
    for (int n = 0; n < MmaTile<D>::kPart; n += 16) {
      Pair b[4];
      load_right_transposed(values, MmaTile<D>::kStride, j, MmaTile<D>::part() + n, b);
      multiply_fragments(sums.v[n / 8], sums.v[n / 8 + 1], a, b);
    }
  }
}

// Copies rows [first, first + count) of one head to a tile of kRows; the rest becomes zeros.
template <int D, int kRows, size_t N>
LOWRANK_DEVICE inline void copy_head(SharedArray<BF16, N>& tile, const View<BF16>& from,
                                     int64_t first, int64_t count, int64_t col, int dim) {
  copy_tile<kRows, D, MmaTile<D>::kStride, kAttentionThreads>(
      tile, from.data + first * from.stride + col, from.stride, count, dim);
}

// Writes this warp's columns of its rows [.., count) of one head.
template <int D>
LOWRANK_DEVICE inline void store_head(const WarpRows<MmaTile<D>::kPart>& sums, const View<BF16>& to,
                                      int64_t first, int64_t count, int64_t col, int dim) {
  LOWRANK_UNROLL
  for (int j = 0; j < MmaTile<D>::kPart / 8; ++j) {
    LOWRANK_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = MmaTile<D>::row() + fragment_row(2 * half);
      const int at = MmaTile<D>::part() + j * 8 + fragment_col(0);
      if (row < count && at < dim)
        store_two(&to.at(first + row, col + at), sums.v[j][2 * half], sums.v[j][2 * half + 1],
                  dim - at > 1);
    }
  }
}

}  // namespace lowrank::cuda
