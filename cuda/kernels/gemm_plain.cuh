// Products in plain f32 arithmetic, for f32 activations: no TF32.
#pragma once

#include "cuda/kernels/gemm.cuh"

namespace lowrank::cuda {

inline constexpr int kPlainK = 32;
inline constexpr int kPlainStride = kPlainK + 1;  // rows begin in different banks

struct PlainShared {
  SharedArray<float, PlainTile::kM * kPlainStride> a;
  SharedArray<float, PlainTile::kN * kPlainStride> b;
};

// Fills 64 x kPlainK elements from (row0, k0) on.
template <size_t N>
LOWRANK_DEVICE inline void fill_tile(SharedArray<float, N>& tile, const Operand& o,
                                     const Tables& tables, int64_t row0, int64_t k0) {
  constexpr int kRows = PlainTile::kM;
  static_assert(PlainTile::kN == kRows);
  for (int chunk = static_cast<int>(thread_index()); chunk < kRows * kPlainK / 8;
       chunk += static_cast<int>(PlainTile::kThreads)) {
    float v[8];
    if (o.k_is_row) {
      const int k = chunk / (kRows / 8), row = chunk % (kRows / 8) * 8;
      load8(o, tables, k0 + k, row0 + row, v);
      LOWRANK_UNROLL
      for (int i = 0; i < 8; ++i) tile[static_cast<size_t>((row + i) * kPlainStride + k)] = v[i];
    } else {
      const int row = chunk / (kPlainK / 8), k = chunk % (kPlainK / 8) * 8;
      load8(o, tables, row0 + row, k0 + k, v);
      LOWRANK_UNROLL
      for (int i = 0; i < 8; ++i) tile[static_cast<size_t>(row * kPlainStride + k + i)] = v[i];
    }
  }
}

LOWRANK_DEVICE inline void multiply_tile(const PlainShared& s, Sums<PlainTile>& sums) {
  for (int k = 0; k < kPlainK; ++k) {
    float a[2][2], b[4][2];
    LOWRANK_UNROLL
    for (int i = 0; i < 4; ++i)
      a[i / 2][i % 2] =
          s.a[static_cast<size_t>(PlainTile::row(i / 2, i % 2 * 2) * kPlainStride + k)];
    LOWRANK_UNROLL
    for (int j = 0; j < 8; ++j)
      b[j / 2][j % 2] = s.b[static_cast<size_t>(PlainTile::col(j / 2, j % 2) * kPlainStride + k)];
    for_each_sum<PlainTile>([&](int i, int j, int e) {
      sums.v[i][j][e] = multiply_add(a[i][e / 2], b[j][e % 2], sums.v[i][j][e]);
    });
  }
}

// Grid: tiles of c's rows x of its columns x splits.
LOWRANK_KERNEL void gemm_plain_kernel(Gemm g, const Tables* tables) {
  gemm_block<PlainTile>(g, [&](auto, const Operand& a, const Operand& b, const Place& place,
                               int64_t k_begin, int64_t k_end, Sums<PlainTile>& sums) {
    PlainShared& s = shared<PlainShared>();
    for (int64_t k0 = k_begin; k0 < k_end; k0 += kPlainK) {
      fill_tile(s.a, a, *tables, place.row0, k0);
      fill_tile(s.b, b, *tables, place.col0, k0);
      block_sync();
      if (place.row_groups > 0 && place.col_groups > 0) multiply_tile(s, sums);
      block_sync();
    }
  });
}

}  // namespace lowrank::cuda
