// Tiles of rows in shared memory and products of two tiles in plain f32 arithmetic, for attention
// over f32.
//
// A tile has kRows rows (queries or keys) of one head. kLanes neighbouring threads share a row of
// the score matrix: thread (row, part) holds its columns part, part + kLanes, ..., and the same
// columns of the row's result of D values.
#pragma once

#include "cuda/kernels/attention_stretch.cuh"

namespace lowrank::cuda {

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
