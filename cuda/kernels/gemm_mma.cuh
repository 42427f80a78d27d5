// Products over bf16 activations with matrix instructions. Tiles of both operands go through three
// stages of shared memory: bf16 operands by asynchronous copies two rounds ahead; all others
// (weights of other types, dropout, a scale) are read into registers before a round is multiplied,
// and stored as bf16 after it. A tile lies as its operand does in memory, rows by k or k by rows,
// so that both ways move 16 bytes at a time; ldmatrix transposes.
#pragma once

#include "cuda/kernels/fragments.cuh"
#include "cuda/kernels/gemm.cuh"
#include "cuda/kernels/raw_chunk.cuh"

namespace lowrank::cuda {

inline constexpr int kMatrixK = 32, kMatrixStages = 3;

// One operand's tile of 128 x kMatrixK. Rows of 40 or 136 elements: 8 modulo 64 or 8 modulo 32,
// which both keep eight rows of 16 bytes in different banks.
template <bool kKIsRow>
struct OperandTile {
  static constexpr int kRows = MatrixTile::kM;
  static constexpr int kStride = (kKIsRow ? kRows : kMatrixK) + 8;
  static constexpr size_t kSize = static_cast<size_t>((kKIsRow ? kMatrixK : kRows) * kStride);
  static constexpr int kPerRow = (kKIsRow ? kRows : kMatrixK) / 8;  // chunks of 8 elements
  static constexpr int kChunks = kRows * kMatrixK / 8 / static_cast<int>(MatrixTile::kThreads);
  static_assert(MatrixTile::kN == kRows);

  SharedArray<BF16, kSize> values;

  // Chunk `c` of this thread: its row and column in memory's terms within the tile.
  LOWRANK_DEVICE static inline int chunk_row(int c) { return chunk(c) / kPerRow; }
  LOWRANK_DEVICE static inline int chunk_col(int c) { return chunk(c) % kPerRow * 8; }
  LOWRANK_DEVICE static inline size_t chunk_place(int c) {
    return static_cast<size_t>(chunk_row(c) * kStride + chunk_col(c));
  }

 private:
  LOWRANK_DEVICE static inline int chunk(int c) {
    return static_cast<int>(thread_index()) + c * static_cast<int>(MatrixTile::kThreads);
  }
};

// Whether an operand's elements can be copied as they are.
LOWRANK_DEVICE inline bool copies_directly(const Operand& o) {
  return o.values.storage == Storage::kBF16 && o.scale == 1 && o.dropout.threshold == 0 &&
         o.stride % 8 == 0 && aligned(o.values.data, 16);
}

// Starts copying the tile that begins at (row0, k0) in the product's terms.
template <bool kKIsRow>
LOWRANK_DEVICE inline void copy_operand(OperandTile<kKIsRow>& tile, const Operand& o, int64_t row0,
                                        int64_t k0) {
  using Tile = OperandTile<kKIsRow>;
  const auto* data = static_cast<const BF16*>(o.values.data);
  LOWRANK_UNROLL
  for (int c = 0; c < Tile::kChunks; ++c) {
    const int64_t row = (kKIsRow ? k0 : row0) + Tile::chunk_row(c);
    const int64_t col = (kKIsRow ? row0 : k0) + Tile::chunk_col(c);
    const int64_t count = row >= o.first && row < o.last ? o.values.cols - col : 0;
    if (count >= 8) {
      copy_async(tile.values, Tile::chunk_place(c), data + row * o.stride + col);
      continue;
    }
    LOWRANK_KEEP_LOOP
    for (int i = 0; i < 8; ++i) {
      BF16 value{};
      if (i < count) value = data[row * o.stride + col + i];
      tile.values[Tile::chunk_place(c) + static_cast<size_t>(i)] = value;
    }
  }
}

// An operand that is converted, for one thread: read for a tile, then stored to it.
template <bool kFloats, bool kKIsRow>
struct Converter {
  using Tile = OperandTile<kKIsRow>;
  RawKind kind = RawKind::kConverted;
  RawChunk chunks[Tile::kChunks];

  LOWRANK_DEVICE inline void read(const Operand& o, const Tables& tables, int64_t row0,
                                  int64_t k0) {
    LOWRANK_UNROLL
    for (int c = 0; c < Tile::kChunks; ++c)
      read_chunk<kFloats>(o, tables, kind, (kKIsRow ? k0 : row0) + Tile::chunk_row(c),
                          (kKIsRow ? row0 : k0) + Tile::chunk_col(c), chunks[c]);
  }
  LOWRANK_DEVICE inline void store(Tile& tile, const Operand& o, const Tables& tables) const {
    LOWRANK_UNROLL
    for (int c = 0; c < Tile::kChunks; ++c)
      tile.values.set_words(Tile::chunk_place(c),
                            chunk_values<kFloats>(o, tables, kind, chunks[c]));
  }
};

template <bool kA, bool kB>
struct MatrixStage {
  OperandTile<kA> a;
  OperandTile<kB> b;
};
template <bool kA, bool kB>
struct MatrixShared {
  MatrixStage<kA, kB> stages[kMatrixStages];
};

template <bool kA, bool kB>
LOWRANK_DEVICE inline void multiply_stage(const MatrixStage<kA, kB>& s, const Place& place,
                                          Sums<MatrixTile>& sums) {
  if (place.row_groups == 0) return;
  constexpr int kStrideA = OperandTile<kA>::kStride, kStrideB = OperandTile<kB>::kStride;
  LOWRANK_UNROLL
  for (int k = 0; k < kMatrixK; k += 16) {
    Pair b[2][4];
    LOWRANK_UNROLL
    for (int j = 0; j < 2; ++j) {
      if (j >= place.col_groups) break;
      const int col = MatrixTile::warp_col() + j * 16;
      if constexpr (kB)
        load_right_transposed(s.b.values, kStrideB, k, col, b[j]);
      else
        load_right(s.b.values, kStrideB, col, k, b[j]);
    }
    LOWRANK_UNROLL
    for (int i = 0; i < MatrixTile::kGroups; ++i) {
      if (i >= place.row_groups) break;
      const int row = MatrixTile::warp_row() + i * 16;
      Pair a[4];
      if constexpr (kA)
        load_left_transposed(s.a.values, kStrideA, k, row, a);
      else
        load_left(s.a.values, kStrideA, row, k, a);
      LOWRANK_UNROLL
      for (int j = 0; j < 2; ++j) {
        if (j >= place.col_groups) break;
        multiply_fragments(sums.v[i][2 * j], sums.v[i][2 * j + 1], a, b[j]);
      }
    }
  }
}

// kFloats: b is known to be f32 or bf16, as a always is.
template <bool kA, bool kB, bool kFloats>
LOWRANK_DEVICE inline void multiply_matrix(const Operand& a, const Operand& b, const Tables& tables,
                                           const Place& place, int64_t k_begin, int64_t k_end,
                                           Sums<MatrixTile>& sums) {
  auto& stages = shared<MatrixShared<kA, kB>>().stages;
  const bool direct_a = copies_directly(a), direct_b = copies_directly(b);
  const int64_t rounds = divide_up(k_end - k_begin, kMatrixK);
  Converter<true, kA> converter_a;
  Converter<kFloats, kB> converter_b;
  if (!kFloats) converter_b.kind = raw_kind(b);
  // Round n goes to stage n % kMatrixStages: started before others are multiplied, finished after.
  const auto start = [&](int64_t n) {
    if (n >= rounds) return;
    auto& stage = stages[n % kMatrixStages];
    const int64_t k0 = k_begin + n * kMatrixK;
    if (direct_a)
      copy_operand(stage.a, a, place.row0, k0);
    else
      converter_a.read(a, tables, place.row0, k0);
    if (direct_b)
      copy_operand(stage.b, b, place.col0, k0);
    else
      converter_b.read(b, tables, place.col0, k0);
  };
  const auto finish = [&](int64_t n) {
    if (n < rounds && !direct_a) converter_a.store(stages[n % kMatrixStages].a, a, tables);
    if (n < rounds && !direct_b) converter_b.store(stages[n % kMatrixStages].b, b, tables);
    copies_commit();
  };
  // Negative rounds only fill the stages; one loop keeps the code small.
  for (int64_t n = 1 - kMatrixStages; n < rounds; ++n) {
    if (n >= 0) {
      copies_wait<kMatrixStages - 2>();  // round n has come
      block_sync();                      // and every warp is done with round n - 1
    }
    start(n + kMatrixStages - 1);  // to that round's stage
    if (n >= 0) multiply_stage(stages[n % kMatrixStages], place, sums);
    finish(n + kMatrixStages - 1);
  }
  copies_wait<0>();
  block_sync();  // the next product begins with the first stage
}

// Grid: tiles of c's rows x of its columns x splits. kA, kB: whether memory's rows are k.
template <bool kA, bool kB>
LOWRANK_KERNEL void gemm_matrix_kernel(Gemm g, const Tables* tables) {
  gemm_block<MatrixTile>(
      g, [&](auto is_adapter, const Operand& a, const Operand& b, const Place& place,
             int64_t k_begin, int64_t k_end, Sums<MatrixTile>& sums) {
        multiply_matrix<kA, kB, decltype(is_adapter)::value>(a, b, *tables, place, k_begin, k_end,
                                                             sums);
      });
}

}  // namespace lowrank::cuda
