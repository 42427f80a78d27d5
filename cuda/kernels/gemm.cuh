// c [m, n] = a [m, k] b [n, k]^T, tile by tile: operands are converted on their way to shared
// memory, to bf16 for the matrix instruction (gemm_mma.cuh) or kept in f32 for plain products
// (gemm_plain.cuh). Both forms hold their sums where the matrix instruction does, so all that
// follows is common. The adapters of a linear op are further products into the same sums, taken
// first because dropout of an input's gradient multiplies their share alone.
//
// Products of few tiles are split: each block sums a stretch of k, and a second launch adds the
// stretches in order. No atomics, so the same bits every time.
#pragma once

#include <type_traits>

#include "cuda/kernels/operand.cuh"

namespace lowrank::cuda {

// The part of c that a block computes: two rows of kWarpCols warps, each with kRowGroups times 16
// rows and 32 columns.
template <int kRowGroups, int kWarpCols>
struct GemmTile {
  static constexpr int kGroups = kRowGroups;
  static constexpr int kM = 32 * kRowGroups, kN = 32 * kWarpCols;
  static constexpr unsigned kThreads = 2 * kWarpCols * kWarp;

  LOWRANK_DEVICE static inline int warp_row() {
    return static_cast<int>(warp_index()) / kWarpCols * (16 * kRowGroups);
  }
  LOWRANK_DEVICE static inline int warp_col() {
    return static_cast<int>(warp_index()) % kWarpCols * 32;
  }
  // Where element (i, j, e) of a thread's sums stands in the tile.
  LOWRANK_DEVICE static inline int row(int i, int e) {
    return warp_row() + i * 16 + static_cast<int>(lane_index()) / 4 + e / 2 * 8;
  }
  LOWRANK_DEVICE static inline int col(int j, int e) {
    return warp_col() + j * 8 + static_cast<int>(lane_index()) % 4 * 2 + e % 2;
  }
};
using PlainTile = GemmTile<2, 2>;   // 64 x 64
using MatrixTile = GemmTile<4, 4>;  // 128 x 128

// A further product for some rows of c; a's other rows are zeros. Its operands lie in memory as the
// main product's do.
struct Adapter {
  Operand a, b;
  int64_t row_begin = 0, row_end = 0, k = 0;
  Dropout dropout;  // of the product, not of an operand
};

struct Gemm {
  int64_t m = 0, n = 0, k = 0;
  Operand a, b;
  void* c = nullptr;
  DType c_dtype = DType::kF32;
  int64_t c_stride = 0;
  bool accumulate = false;
  float scale = 1;
  const float* bias = nullptr;
  const void* residual = nullptr;  // of c's type; may be c
  int64_t residual_stride = 0;
  const Adapter* adapters = nullptr;
  int32_t adapter_count = 0;
  bool adapter_dropout = false;
  int64_t split_k = 0;        // of k, for one block
  float* partials = nullptr;  // [splits, m, n] when there are several
};

// Sums of one thread: [16 rows][8 columns][fragment].
template <typename Tile>
struct Sums {
  float v[Tile::kGroups][4][4] = {};
};

template <typename Tile, typename Body>
LOWRANK_DEVICE inline void for_each_sum(const Body& body) {
  LOWRANK_UNROLL
  for (int i = 0; i < Tile::kGroups; ++i) {
    LOWRANK_UNROLL
    for (int j = 0; j < 4; ++j) {
      LOWRANK_UNROLL
      for (int e = 0; e < 4; ++e) body(i, j, e);
    }
  }
}

// Where a block's tile begins, and how many groups of 16 of this warp's rows and columns hold
// anything of c.
struct Place {
  int64_t row0 = 0, col0 = 0;
  int row_groups = 0, col_groups = 0;
};

template <typename Tile>
LOWRANK_DEVICE inline Place place_of_block(const Gemm& g) {
  Place p{int64_t{block_index().x} * Tile::kM, int64_t{block_index().y} * Tile::kN};
  const int64_t rows = larger<int64_t>(0, g.m - p.row0 - Tile::warp_row());
  const int64_t cols = larger<int64_t>(0, g.n - p.col0 - Tile::warp_col());
  p.row_groups = static_cast<int>(smaller<int64_t>(Tile::kGroups, divide_up(rows, 16)));
  p.col_groups = static_cast<int>(smaller<int64_t>(2, divide_up(cols, 16)));
  return p;
}

// Adds the adapters' share to sums that are zero.
template <typename Tile, typename Multiply>
LOWRANK_DEVICE inline void add_adapters(const Gemm& g, const Place& place, Sums<Tile>& sums,
                                        const Multiply& multiply) {
  for (int32_t n = 0; n < g.adapter_count; ++n) {
    const Adapter& adapter = g.adapters[n];
    if (adapter.row_end <= place.row0 || adapter.row_begin >= place.row0 + Tile::kM) continue;
    multiply(std::true_type{}, adapter.a, adapter.b, place, int64_t{0}, adapter.k, sums);
  }
  if (!g.adapter_dropout) return;
  for (int32_t n = 0; n < g.adapter_count; ++n) {
    const Adapter& adapter = g.adapters[n];
    for_each_sum<Tile>([&](int i, int j, int e) {
      const int64_t row = place.row0 + Tile::row(i, e), col = place.col0 + Tile::col(j, e);
      if (row >= adapter.row_begin && row < adapter.row_end && col < g.n)
        sums.v[i][j][e] *= dropout_factor(adapter.dropout, row, col);
    });
  }
}

LOWRANK_DEVICE inline float load_activation(const void* data, DType dtype, int64_t index) {
  return dtype == DType::kBF16 ? as_float(static_cast<const BF16*>(data)[index])
                               : static_cast<const float*>(data)[index];
}

// What c receives for a sum; `index` is its place in c.
LOWRANK_DEVICE inline float result_of(const Gemm& g, int64_t row, int64_t col, int64_t index,
                                      float sum) {
  float value = sum * g.scale;
  if (g.bias) value += g.bias[col];
  if (g.residual) value += load_activation(g.residual, g.c_dtype, row * g.residual_stride + col);
  if (g.accumulate) value += load_activation(g.c, g.c_dtype, index);
  return value;
}

// Two neighbours of a row, or only the first of them.
LOWRANK_DEVICE inline void store_sums(const Gemm& g, int64_t row, int64_t col, float first,
                                      float second, bool both) {
  const int64_t index = row * g.c_stride + col;
  first = result_of(g, row, col, index, first);
  if (both) second = result_of(g, row, col + 1, index + 1, second);
  if (g.c_dtype == DType::kBF16) {
    store_two(static_cast<BF16*>(g.c) + index, first, second, both);
  } else {
    static_cast<float*>(g.c)[index] = first;
    if (both) static_cast<float*>(g.c)[index + 1] = second;
  }
}

// One block: its tile, and its stretch of k. multiply(is_adapter, a, b, place, k_begin, k_end,
// sums) adds a product's stretch to sums; is_adapter is std::true_type or std::false_type.
template <typename Tile, typename Multiply>
LOWRANK_DEVICE inline void gemm_block(const Gemm& g, const Multiply& multiply) {
  const Place place = place_of_block<Tile>(g);
  Sums<Tile> sums;
  const int64_t split = block_index().z, begin = split * g.split_k;
  if (g.adapter_count > 0 && split == 0) add_adapters<Tile>(g, place, sums, multiply);
  multiply(std::false_type{}, g.a, g.b, place, begin, smaller(g.k, begin + g.split_k), sums);
  LOWRANK_UNROLL
  for (int i = 0; i < Tile::kGroups; ++i) {
    LOWRANK_UNROLL
    for (int j = 0; j < 4; ++j) {
      LOWRANK_UNROLL
      for (int e = 0; e < 4; e += 2) {
        const int64_t row = place.row0 + Tile::row(i, e), col = place.col0 + Tile::col(j, e);
        if (row >= g.m || col >= g.n) continue;
        const float first = sums.v[i][j][e], second = sums.v[i][j][e + 1];
        if (!g.partials) {
          store_sums(g, row, col, first, second, col + 1 < g.n);
          continue;
        }
        float* partial = g.partials + (split * g.m + row) * g.n + col;
        partial[0] = first;
        if (col + 1 < g.n) partial[1] = second;
      }
    }
  }
}

}  // namespace lowrank::cuda
