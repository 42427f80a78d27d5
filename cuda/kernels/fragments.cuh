// Fragments of the matrix instruction out of bf16 tiles in shared memory, 16 x 16 elements at a
// time (PTX ISA, ldmatrix and mma.m16n8k16). Rows of a tile begin at multiples of 16 bytes; a row
// of 8 elements modulo 64 longer than the last keeps eight rows in different banks.
#pragma once

#include "cuda/device.cuh"

namespace lowrank::cuda {

// Left operand: rows and columns of the tile are those of the product.
template <size_t N>
LOWRANK_DEVICE inline void load_left(const SharedArray<BF16, N>& tile, int stride, int row, int col,
                                     Pair (&a)[4]) {
  const int lane = static_cast<int>(lane_index());
  load_matrices<false>(tile, static_cast<size_t>((row + lane % 16) * stride + col + lane / 16 * 8),
                       a);
}

// Left operand of a tile that holds it transposed: the tile's rows are the product's k.
template <size_t N>
LOWRANK_DEVICE inline void load_left_transposed(const SharedArray<BF16, N>& tile, int stride, int k,
                                                int row, Pair (&a)[4]) {
  const int lane = static_cast<int>(lane_index());
  load_matrices<true>(
      tile, static_cast<size_t>((k + lane % 8 + lane / 16 * 8) * stride + row + lane / 8 % 2 * 8),
      a);
}

// Right operand, two groups of 8 columns: the tile's rows are the product's columns.
template <size_t N>
LOWRANK_DEVICE inline void load_right(const SharedArray<BF16, N>& tile, int stride, int col, int k,
                                      Pair (&b)[4]) {
  const int lane = static_cast<int>(lane_index());
  load_matrices<false>(
      tile, static_cast<size_t>((col + lane % 8 + lane / 16 * 8) * stride + k + lane / 8 % 2 * 8),
      b);
}

// The same of a tile whose rows are the product's k.
template <size_t N>
LOWRANK_DEVICE inline void load_right_transposed(const SharedArray<BF16, N>& tile, int stride,
                                                 int k, int col, Pair (&b)[4]) {
  const int lane = static_cast<int>(lane_index());
  load_matrices<true>(tile, static_cast<size_t>((k + lane % 16) * stride + col + lane / 16 * 8), b);
}

// Both groups of 8 columns: left [16, 16] times right [16, 16].
LOWRANK_DEVICE inline void multiply_fragments(float (&first)[4], float (&second)[4],
                                              const Pair (&a)[4], const Pair (&b)[4]) {
  const Pair low[2] = {b[0], b[1]}, high[2] = {b[2], b[3]};
  mma_16x8x16(first, a, low);
  mma_16x8x16(second, a, high);
}

// Two groups of sums as a left operand of a further product: sums and operands of the instruction
// stand in the same lanes.
LOWRANK_DEVICE inline void left_from_sums(const float (&first)[4], const float (&second)[4],
                                          Pair (&a)[4]) {
  a[0] = bf16_pair(first[0], first[1]);
  a[1] = bf16_pair(first[2], first[3]);
  a[2] = bf16_pair(second[0], second[1]);
  a[3] = bf16_pair(second[2], second[3]);
}

// Row and column of sum e of a lane within its 16 x 8.
LOWRANK_DEVICE inline int fragment_row(int e) {
  return static_cast<int>(lane_index()) / 4 + e / 2 * 8;
}
LOWRANK_DEVICE inline int fragment_col(int e) {
  return static_cast<int>(lane_index()) % 4 * 2 + e % 2;
}

}  // namespace lowrank::cuda
