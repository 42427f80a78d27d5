// f32 panels. Every depth block of a left panel is [kRows][k], so that a plain f32 operand can be
// read where it stands instead; right panels are [k][kCols]. Missing rows and columns are zero.

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
  static constexpr bool kStrips = false;       // which blocking products use
  static constexpr bool kLeftRows = false;     // packed left panels are rows of a matrix
  static constexpr int64_t kDepthUnit = 1;     // packed K is padded to a multiple
  static constexpr int64_t kDepthStep = 1;     // and multiplied up to a multiple of this
  static constexpr int64_t kDepthBlock = 288;  // a right panel of this depth stays in L1

  static constexpr int64_t kRowBlock = 516;  // rows of a task at most: their sums stay in L2
  static constexpr int64_t kPackRows = 24;   // packing an element takes the time of so many rows
  static constexpr int64_t kPackCols = 16;   // a strip's left rows cost so many columns more
  static constexpr int64_t kTaskParts = 4;   // a disturbance costs one of so many parts of a task
  static constexpr int64_t kHeadRows = 192;  // rows of a head task: a strip is packed for each

  using Factors = TileFactors<float>;
  using Side = Ahead;  // what a product does beside multiplying
  struct Scope {};     // nothing to set up per task

  // A panel's edge costs only the rows and vectors that it needs, in these steps.
  static constexpr int kRowStep = kRows == 6 ? 2 : 4;

  LOWRANK_INLINE static bool is_plain(const Source& source) {
    return source.element == Element::kF32 && !source.rows && is_unchanged(source);
  }

  // Whether the left operand needs no packing. Rows are read in steps of kRowStep.
  LOWRANK_INLINE static bool reads_left_in_place(const Operand& left, int64_t row_end, int64_t) {
    return !left.transposed && is_plain(left.source) && row_end % kRowStep == 0 &&
           left.source.stride * 4 % kSetBytes != 0;
  }
  // Rows that are multiples of this apart share few sets of the first cache.
  static constexpr int64_t kSetBytes = 2048;

  // Whether a right operand needs no packing: few rows read it, and a row of it is a run of
  // columns. They take it in steps of kShortDepth, which stays in the first cache from one panel to
  // the next.
  LOWRANK_INLINE static bool reads_in_place(const Operand& right, int64_t rows, int64_t cols) {
    return !right.transposed && is_plain(right.source) && rows <= 2 * kRows && cols % kCols == 0;
  }
  static constexpr int64_t kShortDepth = 32;
  static constexpr int64_t kLongRun = 4096;  // columns of a task then

  LOWRANK_INLINE static int64_t left_stride(int64_t depth) { return depth; }

  // Rows [first, first + count) of the left operand, count <= kRows, over its whole depth.
  static void pack_left(const Operand& left, int64_t first, int64_t count, int64_t depth,
                        float* to) {
    const int64_t block = depth_block(depth, kDepthBlock);
    for (int64_t k0 = 0; k0 < depth; k0 += block, to += block * kRows) {
      const int64_t n = smaller(block, depth - k0);
      if (left.transposed) {
        pack_left_columns(left.source, first, count, k0, n, to);
        continue;
      }
      for (int64_t i = 0; i < count; ++i) read_run(left.source, first + i, k0, n, to + i * n);
      for (int64_t i = count * n; i < kRows * n; ++i) to[i] = 0;
    }
  }

  // Columns [k, k + kCols) of a row of left panels whose depth is `padded`, one block.
  LOWRANK_INLINE static void put_left(float* panels, int64_t padded, int64_t row, int64_t k,
                                      F32 low, F32 high) {
    float* to = panels + row * padded + k;
    store_n(to, low, smaller(kLanes, padded - k));
    if (padded > k + kLanes) store_n(to + kLanes, high, smaller(kLanes, padded - k - kLanes));
  }

  // Columns [first, first + count) of rows [k0, k0 + n) of the source, each as a run.
  static void pack_left_columns(const Source& source, int64_t first, int64_t count, int64_t k0,
                                int64_t n, float* to) {
    constexpr int64_t kStride = round_up(kRows, 4);
    float rows[kLanes * kStride] = {};
    const bool plain = is_plain(source) && count == kRows;
    for (int64_t k = 0; k < n; k += kLanes) {
      const int64_t lanes = smaller(kLanes, n - k);
      for (int64_t j = 0; j < lanes; ++j) {
        const int64_t row = k0 + k + j;
        float* run = rows + j * kStride;
        if (plain)
          __builtin_memcpy(run,
                           static_cast<const float*>(source.data) + row * source.stride + first,
                           kRows * sizeof(float));
        else
          read_short_run(source, row, first, count, run);
      }
      for (int64_t i = 0; i < kRows; i += 4) {
        F32 columns[4];
        load_columns(rows + i, kStride, columns);
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c)
          if (i + c < kRows) store_n(to + (i + c) * n + k, columns[c], lanes);
      }
    }
  }

  // Columns [first, first + count) and depth [k0, k0 + depth), depth <= kDepthBlock, as panels.
  // A panel's second vector isn't written where it has no column.
  static void pack_right(const Operand& right, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, float* to) {
    const Source& source = right.source;
    if (right.transposed) {
      for (int64_t p = 0; p < count; p += kLanes)
        pack_right_columns(source, first + p, smaller(kLanes, count - p), k0, depth,
                           to + p / kCols * kCols * depth + p % kCols);
      return;
    }
    // Runs as long as a task's strip: `count` is kColBlock at most.
    alignas(64) float run[kStripCols];
    const bool plain = is_plain(source) && count % kCols == 0;
    for (int64_t j = count; j < round_up(count, kCols); ++j) run[j] = 0;
    for (int64_t k = 0; k < depth; ++k) {
      const float* from = run;
      if (plain)
        from = static_cast<const float*>(source.data) + (k0 + k) * source.stride + first;
      else
        read_run(source, k0 + k, first, count, run);
      for (int64_t p = 0; p < count; p += kCols) {
        float* row = to + p * depth + k * kCols;
        store(row, load(from + p));
        store(row + kLanes, load(from + p + kLanes));
      }
    }
  }

  // Rows [first, first + count) of the source, count <= kLanes, as columns kCols apart.
  static void pack_right_columns(const Source& source, int64_t first, int64_t count, int64_t k0,
                                 int64_t depth, float* to) {
    alignas(64) float buffer[kLanes * kDepthBlock];
    const float* rows = buffer;
    int64_t stride = kDepthBlock;
    if (is_plain(source) && count == kLanes) {
      rows = static_cast<const float*>(source.data) + first * source.stride + k0;
      stride = source.stride;
    } else {
      for (int64_t j = 0; j < kLanes; ++j) {
        float* row = buffer + j * kDepthBlock;
        if (j < count) read_run(source, first + j, k0, depth, row);
        for (int64_t k = j < count ? depth : 0; k < depth; ++k) row[k] = 0;
      }
    }
    int64_t k = 0;
    for (; k + 4 <= depth; k += 4, to += 4 * kCols) {
      F32 columns[4];
      load_columns(rows + k, stride, columns);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) store(to + c * kCols, columns[c]);
    }
    for (; k < depth; ++k, to += kCols)
      for (int64_t j = 0; j < kLanes; ++j) to[j] = rows[j * stride + k];
  }

  // to [rows, cols] = from (null: 0) + the products' sum, for the first `rows` of kRows and `cols`
  // of kCols; more of `to` may be written, up to the panel's size. `ahead`: lines that are asked
  // for meanwhile.
  LOWRANK_INLINE static void multiply(const Factors* factors, int count, int64_t rows, int64_t cols,
                                      const float* from, int64_t from_stride, float* to,
                                      int64_t to_stride, const Ahead& ahead) {
    if (count > 0 && factors->right_stride != kCols)
      multiply_panel<F32Unit<0>, kRows, kRowStep>(factors, count, rows, cols, from, from_stride, to,
                                                  to_stride, ahead);
    else
      multiply_panel<F32Unit<kCols>, kRows, kRowStep>(factors, count, rows, cols, from, from_stride,
                                                      to, to_stride, ahead);
  }
};
