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

  static constexpr int64_t kHeadRows = 192;    // rows of a head task: a strip is packed for each

  struct Scope {};  // nothing to set up per task

  // A panel's edge costs only the rows and vectors that it needs, in these steps.
  static constexpr int kRowStep = kRows == 6 ? 2 : 4;

  // kLanes rows of `depth` values, kDepthBlock apart, as columns: value k of row i goes to
  // to[k * stride + i]. Writes whole vectors, up to `room` elements behind `to`.
  LOWRANK_INLINE static void write_columns(const float* rows, int64_t depth, float* to,
                                           int64_t stride, int64_t room) {
    for (int64_t k0 = 0; k0 < depth; k0 += kLanes) {
      F32 block[kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) block[i] = load(rows + i * kDepthBlock + k0);
      transpose(block);
      const int64_t count = smaller(kLanes, depth - k0);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t at = (k0 + k) * stride;
        store_n(to + at, block[k], smaller(kLanes, room - at));
      }
    }
  }

  // Rows [first, first + count) of the left operand, count <= kRows, over its whole depth.
  static void pack_left(const Operand& left, int64_t first, int64_t count, int64_t depth,
                        float* to) {
    if (left.transposed) {
      if (count < kRows)
        for (int64_t i = 0; i < depth * kRows; ++i) to[i] = 0;
      for (int64_t k = 0; k < depth; ++k)
        read_short_run(left.source, k, first, count, to + k * kRows);
      return;
    }
    static_assert(kRows <= kLanes || kRows == 2 * kLanes);
    alignas(64) float rows[larger(kRows, kLanes) * kDepthBlock];
    for (int64_t k0 = 0; k0 < depth; k0 += kDepthBlock) {
      const int64_t n = smaller(kDepthBlock, depth - k0);
      for (int64_t i = 0; i < larger(kRows, kLanes); ++i) {
        float* row = rows + i * kDepthBlock;
        int64_t filled = 0;
        if (i < count) read_run(left.source, first + i, k0, n, row), filled = n;
        for (int64_t k = filled; k < round_up(n, kLanes); ++k) row[k] = 0;
      }
      // Vectors wider than a panel's row reach into the next one, which is written later.
      float* part = to + k0 * kRows;
      for (int64_t i = 0; i < kRows; i += kLanes)
        write_columns(rows + i * kDepthBlock, n, part + i, kRows, n * kRows - i);
    }
  }

  // Columns [first, first + count) and depth [k0, k0 + depth), depth <= kDepthBlock, as panels.
  static void pack_right(const Operand& right, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, float* to) {
    if (right.transposed) {
      pack_right_columns(right.source, first, count, k0, depth, to);
      return;
    }
    // Runs as long as a task's strip: `count` is kColBlock at most.
    alignas(64) float run[kStripCols];
    const int64_t padded = round_up(count, kCols);
    for (int64_t j = count; j < padded; ++j) run[j] = 0;
    for (int64_t k = 0; k < depth; ++k) {
      read_run(right.source, k0 + k, first, count, run);
      for (int64_t p = 0; p < padded; p += kCols) {
        float* row = to + p * depth + k * kCols;
        store(row, load(run + p));
        store(row + kLanes, load(run + p + kLanes));
      }
    }
  }

  static void pack_right_columns(const Source& source, int64_t first, int64_t count, int64_t k0,
                                 int64_t depth, float* to) {
    alignas(64) float rows[kLanes * kDepthBlock];
    for (int64_t p = 0; p < count; p += kCols, to += depth * kCols) {
      for (int64_t half = 0; half < kCols; half += kLanes) {
        for (int64_t j = 0; j < kLanes; ++j) {
          float* row = rows + j * kDepthBlock;
          const bool inside = p + half + j < count;
          if (inside) read_run(source, first + p + half + j, k0, depth, row);
          for (int64_t k = inside ? depth : 0; k < round_up(depth, kLanes); ++k) row[k] = 0;
        }
        write_columns(rows, depth, to + half, kCols, depth * kCols);
      }
    }
  }

  // c [rows, cols] = (begin ? 0 : c) + left panel x right panel, for the first `rows` of kRows and
  // `cols` of kCols; more of c may be written, up to the panel's size.
  static void multiply(const float* left, const float* right, int64_t depth, int64_t rows,
                       int64_t cols, float* c, int64_t stride, bool begin) {
    if (cols <= kLanes)
      multiply_rows<1, kRows>(left, right, depth, rows, c, stride, begin);
    else
      multiply_rows<2, kRows>(left, right, depth, rows, c, stride, begin);
  }

  template <int kVectors, int kCount>
  LOWRANK_INLINE static void multiply_rows(const float* left, const float* right, int64_t depth,
                                           int64_t rows, float* c, int64_t stride, bool begin) {
    if constexpr (kCount > kRowStep) {
      if (rows <= kCount - kRowStep) {
        multiply_rows<kVectors, kCount - kRowStep>(left, right, depth, rows, c, stride, begin);
        return;
      }
    }
    multiply_panel<kVectors, kCount>(left, right, depth, c, stride, begin);
  }

  template <int kVectors, int kCount>
  static void multiply_panel(const float* left, const float* right, int64_t depth, float* c,
                             int64_t stride, bool begin) {
    F32 sums[kVectors][kCount];
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[v][i] = F32{};
    }
    for (int64_t k = 0; k < depth; ++k, left += kRows, right += kCols) {
      F32 b[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) b[v] = load(right + v * kLanes);
#pragma GCC unroll 12
      for (int i = 0; i < kCount; ++i) {
        const F32 a = splat(left[i]);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[v][i] = fma(a, b[v], sums[v][i]);
      }
    }
#pragma GCC unroll 12
    for (int i = 0; i < kCount; ++i, c += stride) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v)
        store(c + v * kLanes, begin ? sums[v][i] : load(c + v * kLanes) + sums[v][i]);
    }
  }
};
