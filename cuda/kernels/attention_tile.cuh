// What the attention kernels share: which tile of which document a block works on, tiles of rows in
// shared memory, and the products of two tiles. Plain f32 arithmetic: no matrix instructions yet.
//
// A tile has kRows rows (queries or keys) of one head. kLanes neighbouring threads share a row of
// the score matrix: thread (row, part) holds its columns part, part + kLanes, ..., and the same
// columns of the row's result of D values.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace lowrank::cuda {

inline constexpr unsigned kAttentionThreads = 128;

template <int D>
struct AttentionTile {
  static constexpr int kRows = D > 128 ? 16 : 32;  // four tiles fit in 99 KB
  static constexpr int kLanes = static_cast<int>(kAttentionThreads) / kRows;
  static constexpr int kCols = kRows / kLanes;  // scores of a thread
  static constexpr int kDims = D / kLanes;      // results of a thread
  static constexpr int kStride = D + 1;         // rows begin in different banks

  LOWRANK_DEVICE static inline int row() { return static_cast<int>(thread_index()) / kLanes; }
  LOWRANK_DEVICE static inline int part() { return static_cast<int>(thread_index()) % kLanes; }
};

struct AttentionArguments {
  const int32_t* q_offsets = nullptr;
  const int32_t* k_offsets = nullptr;
  int32_t documents = 0, heads = 0, kv_heads = 0, head_dim = 0, window = 0;
  int64_t query_rows = 0;
  float scale = 1;
};

// The stretch of one document that a block works on, in rows of the document, and the document.
struct Stretch {
  int64_t begin = 0, end = 0;
  int64_t q_first = 0, k_first = 0, q_count = 0, k_count = 0;
  LOWRANK_DEVICE inline int64_t lag() const { return k_count - q_count; }
};

// Stretch number `index` of `rows` rows when each document is cut from its beginning; false when
// there are fewer. `by_keys` cuts the key side.
LOWRANK_DEVICE inline bool find_stretch(const AttentionArguments& a, int64_t index, int64_t rows,
                                        bool by_keys, Stretch* stretch) {
  for (int32_t d = 0; d < a.documents; ++d) {
    const int64_t q_count = a.q_offsets[d + 1] - a.q_offsets[d];
    const int64_t k_count = a.k_offsets[d + 1] - a.k_offsets[d];
    const int64_t count = by_keys ? k_count : q_count, pieces = divide_up(count, rows);
    if (index < pieces) {
      *stretch = {index * rows,   smaller(count, (index + 1) * rows),
                  a.q_offsets[d], a.k_offsets[d],
                  q_count,        k_count};
      return true;
    }
    index -= pieces;
  }
  return false;
}

// Whether query row `query` of the document sees its key row `key`.
LOWRANK_DEVICE inline bool sees(const AttentionArguments& a, const Stretch& s, int64_t query,
                                int64_t key) {
  const int64_t last = query + s.lag();
  return query < s.q_count && key < s.k_count && key <= last &&
         (a.window == 0 || key > last - a.window);
}

// Copies rows [first, first + count) of one head; the tile's other rows become zeros.
template <int D, typename X, size_t N>
LOWRANK_DEVICE inline void load_rows(SharedArray<X, N>& tile, const View<X>& from, int64_t first,
                                     int64_t count, int64_t col, int dim) {
  using Tile = AttentionTile<D>;
  for (int i = static_cast<int>(thread_index()); i < Tile::kRows * dim;
       i += static_cast<int>(kAttentionThreads)) {
    const int row = i / dim, k = i % dim;
    tile[static_cast<size_t>(row * Tile::kStride + k)] =
        row < count ? from.at(first + row, col + k) : element_from<X>(0);
  }
}

// scores[j] = row of `left` times row part + j * kLanes of `right`.
template <int D, typename X, size_t N>
LOWRANK_DEVICE inline void multiply_rows(const SharedArray<X, N>& left,
                                         const SharedArray<X, N>& right, int dim,
                                         float (&scores)[AttentionTile<D>::kCols]) {
  using Tile = AttentionTile<D>;
  for (float& score : scores) score = 0;
  for (int k = 0; k < dim; ++k) {
    const float value = as_float(left[static_cast<size_t>(Tile::row() * Tile::kStride + k)]);
    LOWRANK_UNROLL
    for (int j = 0; j < Tile::kCols; ++j) {
      const int row = Tile::part() + j * Tile::kLanes;
      scores[j] = multiply_add(value, as_float(right[static_cast<size_t>(row * Tile::kStride + k)]),
                               scores[j]);
    }
  }
}

template <int D>
using WeightTile = SharedArray<float, AttentionTile<D>::kRows*(AttentionTile<D>::kRows + 1)>;

template <int D>
LOWRANK_DEVICE inline void store_weights(WeightTile<D>& tile,
                                         const float (&weights)[AttentionTile<D>::kCols]) {
  using Tile = AttentionTile<D>;
  LOWRANK_UNROLL
  for (int j = 0; j < Tile::kCols; ++j)
    tile[static_cast<size_t>(Tile::row() * (Tile::kRows + 1) + Tile::part() + j * Tile::kLanes)] =
        weights[j];
}

// sums[i] += sum over rows of `values` of this row's weight times column part + i * kLanes.
template <int D, typename X, size_t N>
LOWRANK_DEVICE inline void add_weighted(const WeightTile<D>& weights,
                                        const SharedArray<X, N>& values, int dim,
                                        float (&sums)[AttentionTile<D>::kDims]) {
  using Tile = AttentionTile<D>;
  for (int row = 0; row < Tile::kRows; ++row) {
    const float weight = weights[static_cast<size_t>(Tile::row() * (Tile::kRows + 1) + row)];
    LOWRANK_UNROLL
    for (int i = 0; i < Tile::kDims; ++i) {
      const int col = Tile::part() + i * Tile::kLanes;
      if (col < dim)
        sums[i] = multiply_add(
            weight, as_float(values[static_cast<size_t>(row * Tile::kStride + col)]), sums[i]);
    }
  }
}

}  // namespace lowrank::cuda
