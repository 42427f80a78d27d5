// c [m, n] = a [m, k] b [n, k]^T, tile by tile: operands are converted on their way to shared
// memory, to bf16 for the matrix instruction or kept in f32 for plain products. Both forms hold
// their sums where the matrix instruction does, so all that follows is common. The adapters of a
// linear op are further products into the same sums, taken first because dropout of an input's
// gradient multiplies their share alone. Sums over k run in order: no atomics, no split.
#pragma once

#include "cuda/kernels/operand.cuh"

namespace lowrank::cuda {

inline constexpr int kTileM = 64, kTileN = 64, kTileK = 32;
inline constexpr unsigned kGemmThreads = 128;  // 4 warps, each with 32 x 32 of the tile

// Rows of shared tiles are padded so that neither form meets bank conflicts when it reads.
template <typename T>
inline constexpr int kTileStride = kTileK + (sizeof(T) == 2 ? 8 : 1);

template <typename T>
struct GemmShared {
  SharedArray<T, kTileM * kTileStride<T>> a;
  SharedArray<T, kTileN * kTileStride<T>> b;
};

// A further product for some rows of c; a's other rows are zeros.
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
  const int32_t* scatter = nullptr;  // row i of c goes to row scatter[i]
  bool accumulate = false;
  float scale = 1;
  const float* bias = nullptr;
  const void* residual = nullptr;  // of c's type; may be c
  int64_t residual_stride = 0;
  const Adapter* adapters = nullptr;
  int32_t adapter_count = 0;
  bool adapter_dropout = false;
};

// Sums of one thread: [16 rows][8 columns][fragment].
struct Sums {
  float v[2][4][4] = {};
};

// Where element (i, j, e) of a thread's sums stands in the tile.
LOWRANK_DEVICE inline int sum_row(int i, int e) {
  return static_cast<int>(warp_index() / 2 * 32 + lane_index() / 4) + i * 16 + e / 2 * 8;
}
LOWRANK_DEVICE inline int sum_col(int j, int e) {
  return static_cast<int>(warp_index() % 2 * 32 + lane_index() % 4 * 2) + j * 8 + e % 2;
}

template <typename Body>
LOWRANK_DEVICE inline void for_each_sum(const Body& body) {
  LOWRANK_UNROLL
  for (int i = 0; i < 2; ++i) {
    LOWRANK_UNROLL
    for (int j = 0; j < 4; ++j) {
      LOWRANK_UNROLL
      for (int e = 0; e < 4; ++e) body(i, j, e);
    }
  }
}

// Fills 64 x kTileK elements from (row0, k0) on.
template <typename T, size_t N>
LOWRANK_DEVICE inline void fill_tile(SharedArray<T, N>& tile, const Operand& o,
                                     const Tables& tables, int64_t row0, int64_t k0) {
  static_assert(kTileM == kTileN);
  constexpr int kStride = kTileStride<T>, kChunks = kTileM * kTileK / 8;
  for (int chunk = static_cast<int>(thread_index()); chunk < kChunks;
       chunk += static_cast<int>(kGemmThreads)) {
    float v[8];
    if (o.k_is_row) {
      const int k = chunk / (kTileM / 8), row = chunk % (kTileM / 8) * 8;
      load8(o, tables, k0 + k, row0 + row, v);
      LOWRANK_UNROLL
      for (int i = 0; i < 8; ++i)
        tile[static_cast<size_t>((row + i) * kStride + k)] = element_from<T>(v[i]);
    } else {
      const int row = chunk / (kTileK / 8), k = chunk % (kTileK / 8) * 8;
      load8(o, tables, row0 + row, k0 + k, v);
      LOWRANK_UNROLL
      for (int i = 0; i < 8; ++i)
        tile[static_cast<size_t>(row * kStride + k + i)] = element_from<T>(v[i]);
    }
  }
}

LOWRANK_DEVICE inline void multiply_tile(const GemmShared<BF16>& s, Sums& sums) {
  constexpr int kStride = kTileStride<BF16>;
  const int pair = static_cast<int>(lane_index() % 4) * 2;
  for (int k = 0; k < kTileK; k += 16) {
    Pair b[4][2];
    LOWRANK_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int col = static_cast<int>(warp_index() % 2 * 32 + lane_index() / 4) + j * 8;
      LOWRANK_UNROLL
      for (int half = 0; half < 2; ++half)
        b[j][half] = s.b.pair(static_cast<size_t>(col * kStride + k + pair + half * 8));
    }
    LOWRANK_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int row = sum_row(i, 0);
      Pair a[4];
      LOWRANK_UNROLL
      for (int part = 0; part < 4; ++part)
        a[part] =
            s.a.pair(static_cast<size_t>((row + part % 2 * 8) * kStride + k + pair + part / 2 * 8));
      LOWRANK_UNROLL
      for (int j = 0; j < 4; ++j) mma_16x8x16(sums.v[i][j], a, b[j]);
    }
  }
}

LOWRANK_DEVICE inline void multiply_tile(const GemmShared<float>& s, Sums& sums) {
  constexpr int kStride = kTileStride<float>;
  for (int k = 0; k < kTileK; ++k) {
    float a[2][2], b[4][2];
    LOWRANK_UNROLL
    for (int i = 0; i < 4; ++i)
      a[i / 2][i % 2] = s.a[static_cast<size_t>(sum_row(i / 2, i % 2 * 2) * kStride + k)];
    LOWRANK_UNROLL
    for (int j = 0; j < 8; ++j)
      b[j / 2][j % 2] = s.b[static_cast<size_t>(sum_col(j / 2, j % 2) * kStride + k)];
    for_each_sum([&](int i, int j, int e) {
      sums.v[i][j][e] = multiply_add(a[i][e / 2], b[j][e % 2], sums.v[i][j][e]);
    });
  }
}

// Where a block's tile begins, and whether this warp's part of it holds anything.
struct Place {
  int64_t row0 = 0, col0 = 0;
  bool active = true;
};

template <typename T>
LOWRANK_DEVICE inline void multiply(const Operand& a, const Operand& b, const Tables& tables,
                                    const Place& place, int64_t k, Sums& sums) {
  GemmShared<T>& s = shared<GemmShared<T>>();
  for (int64_t k0 = 0; k0 < k; k0 += kTileK) {
    fill_tile(s.a, a, tables, place.row0, k0);
    fill_tile(s.b, b, tables, place.col0, k0);
    block_sync();
    if (place.active) multiply_tile(s, sums);
    block_sync();
  }
}

// Adds the adapters' share to sums that are zero.
template <typename T>
LOWRANK_DEVICE inline void add_adapters(const Gemm& g, const Tables& tables, const Place& place,
                                        Sums& sums) {
  for (int32_t n = 0; n < g.adapter_count; ++n) {
    const Adapter& adapter = g.adapters[n];
    if (adapter.row_end <= place.row0 || adapter.row_begin >= place.row0 + kTileM) continue;
    multiply<T>(adapter.a, adapter.b, tables, place, adapter.k, sums);
  }
  if (!g.adapter_dropout) return;
  for (int32_t n = 0; n < g.adapter_count; ++n) {
    const Adapter& adapter = g.adapters[n];
    for_each_sum([&](int i, int j, int e) {
      const int64_t row = place.row0 + sum_row(i, e), col = place.col0 + sum_col(j, e);
      if (row >= adapter.row_begin && row < adapter.row_end && col < g.n)
        sums.v[i][j][e] *= dropout_factor(adapter.dropout, row, col);
    });
  }
}

LOWRANK_DEVICE inline float load_activation(const void* data, DType dtype, int64_t index) {
  return dtype == DType::kBF16 ? as_float(static_cast<const BF16*>(data)[index])
                               : static_cast<const float*>(data)[index];
}

LOWRANK_DEVICE inline void store_sum(const Gemm& g, int64_t row, int64_t col, float sum) {
  float value = sum * g.scale;
  if (g.bias) value += g.bias[col];
  if (g.residual) value += load_activation(g.residual, g.c_dtype, row * g.residual_stride + col);
  const int64_t index = (g.scatter ? g.scatter[row] : row) * g.c_stride + col;
  if (g.accumulate) value += load_activation(g.c, g.c_dtype, index);
  if (g.c_dtype == DType::kBF16)
    static_cast<BF16*>(g.c)[index] = element_from<BF16>(value);
  else
    static_cast<float*>(g.c)[index] = value;
}

// T is BF16 for the matrix instruction, float for plain products. One block per tile of c.
template <typename T>
LOWRANK_KERNEL void gemm_kernel(Gemm g, const Tables* tables) {
  Place place{int64_t{block_index().x} * kTileM, int64_t{block_index().y} * kTileN};
  place.active =
      place.row0 + warp_index() / 2 * 32 < g.m && place.col0 + warp_index() % 2 * 32 < g.n;
  Sums sums;
  if (g.adapter_count > 0) add_adapters<T>(g, *tables, place, sums);
  multiply<T>(g.a, g.b, *tables, place, g.k, sums);
  for_each_sum([&](int i, int j, int e) {
    const int64_t row = place.row0 + sum_row(i, e), col = place.col0 + sum_col(j, e);
    if (row < g.m && col < g.n) store_sum(g, row, col, sums.v[i][j][e]);
  });
}

}  // namespace lowrank::cuda
