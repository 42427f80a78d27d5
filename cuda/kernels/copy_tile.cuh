// Copying a rectangle of bf16 elements to a tile in shared memory, 16 bytes at a time where the
// source is aligned to them, by asynchronous copies that the caller commits and awaits.
#pragma once

#include "cuda/device.cuh"

namespace lowrank::cuda {

// Elements [0, rows) x [0, cols) at `from`, rows `stride` apart, to a tile of kRows x kCols whose
// other elements become zeros. All kThreads threads of the block call.
template <int kRows, int kCols, int kStride, unsigned kThreads, size_t N>
LOWRANK_DEVICE inline void copy_tile(SharedArray<BF16, N>& tile, const BF16* from, int64_t stride,
                                     int64_t rows, int64_t cols) {
  static_assert(kCols % 8 == 0 && kStride % 8 == 0);
  const bool by_vectors = aligned(from, 16) && stride % 8 == 0;
  for (int chunk = static_cast<int>(thread_index()); chunk < kRows * kCols / 8;
       chunk += static_cast<int>(kThreads)) {
    const int row = chunk / (kCols / 8), col = chunk % (kCols / 8) * 8;
    const auto at = static_cast<size_t>(row * kStride + col);
    const int64_t count = row < rows ? cols - col : 0;
    const BF16* source = from + row * stride + col;
    if (by_vectors && count >= 8) {
      copy_async(tile, at, source);
    } else {
      LOWRANK_UNROLL
      for (int i = 0; i < 8; ++i)
        tile[at + static_cast<size_t>(i)] = i < count ? source[i] : BF16{};
    }
  }
}

}  // namespace lowrank::cuda
