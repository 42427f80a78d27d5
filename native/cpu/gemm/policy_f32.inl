// f32 panels. Left panels are [k][kRows], right panels [k][kCols]; missing rows and columns are
// zero.

struct F32Policy {
  using Packed = float;
#if LOWRANK_VECTOR_BYTES == 64
  static constexpr int kRows = 12;  // 24 of 32 registers accumulate
#elif LOWRANK_VECTOR_BYTES == 32
  static constexpr int kRows = 6;  // 12 of 16
#else
  static constexpr int kRows = 8;  // 16 of 32
#endif
  static constexpr int kCols = 2 * kLanes;
  static constexpr int64_t kDepthUnit = 1;     // K is padded to a multiple
  static constexpr int64_t kDepthBlock = 256;  // a right panel of this depth stays in L1

  struct Scope {};  // nothing to set up per task

  // Rows [first, first + count) of the left operand, count <= kRows, over its whole depth.
  static void pack_left(const Operand& left, int64_t first, int64_t count, int64_t depth,
                        float* to) {
    float run[kDepthBlock];
    if (count < kRows)
      for (int64_t i = 0; i < depth * kRows; ++i) to[i] = 0;
    if (left.transposed) {
      for (int64_t k = 0; k < depth; ++k) {
        read_run(left.source, k, first, count, run);
        for (int64_t i = 0; i < count; ++i) to[k * kRows + i] = run[i];
      }
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t k0 = 0; k0 < depth; k0 += kDepthBlock) {
        const int64_t n = smaller(kDepthBlock, depth - k0);
        read_run(left.source, first + i, k0, n, run);
        float* column = to + k0 * kRows + i;
        for (int64_t k = 0; k < n; ++k) column[k * kRows] = run[k];
      }
    }
  }

  // Columns [first, first + count) and depth [k0, k0 + depth), depth <= kDepthBlock, as panels.
  static void pack_right(const Operand& right, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, float* to) {
    float run[kDepthBlock];
    for (int64_t p = 0; p < count; p += kCols, to += depth * kCols) {
      const int64_t cols = smaller(kCols, count - p);
      if (!right.transposed) {
        for (int64_t k = 0; k < depth; ++k) {
          read_run(right.source, k0 + k, first + p, cols, to + k * kCols);
          for (int64_t j = cols; j < kCols; ++j) to[k * kCols + j] = 0;
        }
        continue;
      }
      for (int64_t j = 0; j < kCols; ++j) {
        if (j < cols) {
          read_run(right.source, first + p + j, k0, depth, run);
          for (int64_t k = 0; k < depth; ++k) to[k * kCols + j] = run[k];
        } else {
          for (int64_t k = 0; k < depth; ++k) to[k * kCols + j] = 0;
        }
      }
    }
  }

  // c [kRows, kCols] = (begin ? 0 : c) + left panel x right panel.
  static void multiply(const float* left, const float* right, int64_t depth, float* c,
                       int64_t stride, bool begin) {
    F32 sum0[kRows], sum1[kRows];
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) sum0[i] = sum1[i] = F32{};
    for (int64_t k = 0; k < depth; ++k, left += kRows, right += kCols) {
      const F32 b0 = load(right), b1 = load(right + kLanes);
#pragma GCC unroll 12
      for (int i = 0; i < kRows; ++i) {
        const F32 a = splat(left[i]);
        sum0[i] = fma(a, b0, sum0[i]);
        sum1[i] = fma(a, b1, sum1[i]);
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i, c += stride) {
      store(c, begin ? sum0[i] : load(c) + sum0[i]);
      store(c + kLanes, begin ? sum1[i] : load(c + kLanes) + sum1[i]);
    }
  }
};
