// Packing operands of any type as bf16: f32 is rounded. Left panels are rows of a matrix,
// kPanelRows of them; right panels stand in steps of 32 k, pairs of k kPairStride elements apart:
// as two tiles one after the other (32), or a pair of all 32 columns after the other (64).
template <int kPanelRows, int64_t kPairStride>
struct BF16Packing {
  using Packed = uint16_t;
  static constexpr int kRows = kPanelRows, kCols = kPanel;
  static constexpr bool kLeftRows = true;
  static constexpr int64_t kStepDepth = 32;
  static constexpr int64_t kDepthUnit = kStepDepth;
  // A right panel of this depth stays in a first cache of 48 KB. Rows are read in runs as long.
  static constexpr int64_t kDepthBlock = 576;
  static constexpr int64_t kBeside = kPairStride == 32 ? kTile : 32;  // the other 16 columns

  LOWRANK_INLINE static void round_run(const float* from, int64_t count, uint16_t* to) {
    for_each_vector(count, [&](int64_t i, int64_t n) {
      store_n(reinterpret_cast<BF16*>(to) + i, load_n(from + i, n), n);
    });
  }

  LOWRANK_INLINE static bool is_plain(const Source& source) {
    return source.element == Element::kBF16 && is_unchanged(source);
  }
  LOWRANK_INLINE static const uint16_t* plain_at(const Source& source, int64_t row, int64_t col) {
    return static_cast<const uint16_t*>(source.data) +
           (source.rows ? source.rows[row] : row) * source.stride + col;
  }

  // Whether a run is only converted and scaled.
  LOWRANK_INLINE static bool is_simple(const Source& source, int64_t row) {
    return (source.element == Element::kF32 || source.element == Element::kBF16) &&
           !source.dropout && row >= source.zero_before;
  }

  // One row's run as bf16, zero up to `padded`.
  LOWRANK_INLINE static void read_bf16(const Source& source, int64_t row, int64_t col,
                                       int64_t count, int64_t padded, uint16_t* to) {
    if (is_plain(source)) {
      __builtin_memcpy(to, plain_at(source, row, col), static_cast<size_t>(count) * 2);
    } else if (count % kLanes == 0 && is_simple(source, row)) {
      const int64_t at = (source.rows ? source.rows[row] : row) * source.stride + col;
      for (int64_t i = 0; i < count; i += kLanes) {
        const F32 value = source.element == Element::kF32
                              ? load(static_cast<const float*>(source.data) + at + i)
                              : load(static_cast<const BF16*>(source.data) + at + i);
        store(reinterpret_cast<BF16*>(to) + i, value * source.scale);
      }
    } else {
      float run[kDepthBlock];
      read_run(source, row, col, count, run);
      round_run(run, count, to);
    }
    for (int64_t i = count; i < padded; ++i) to[i] = 0;
  }

  // Pairs of k have to be made of any right operand.
  static constexpr bool reads_in_place(const Operand&, int64_t, int64_t) { return false; }
  static constexpr int64_t kShortDepth = kDepthBlock, kLongRun = kStripCols;

  // Whether the left operand's rows can be read where they stand, if their number and distance
  // suit.
  LOWRANK_INLINE static bool has_plain_rows(const Operand& left) {
    return !left.transposed && is_plain(left.source) && !left.source.rows;
  }
  // Rows that are multiples of this apart share few sets of the first cache.
  static constexpr int64_t kSetBytes = 2048;

  // Elements from row to row of a packed left operand.
  LOWRANK_INLINE static int64_t left_stride(int64_t depth) {
    const int64_t padded = round_up(depth, kStepDepth);
    return padded * 2 % kSetBytes == 0 ? padded + 32 : padded;
  }

  // Rows [first, first + count) of the left operand, count <= kPanelRows; the other rows are zero.
  static void pack_left(const Operand& left, int64_t first, int64_t count, int64_t depth,
                        uint16_t* to) {
    const int64_t padded = round_up(depth, kStepDepth), stride = left_stride(depth);
    if (left.transposed) {
      for (int64_t k = 0; k < padded; k += 32)
        pack_left_columns(left.source, k, smaller(32, depth - k), first, count, to + k, stride);
      return;
    }
    for (int64_t i = 0; i < count; ++i, to += stride)
      for (int64_t k = 0; k < padded; k += kDepthBlock) {
        const int64_t n = smaller(kDepthBlock, padded - k);
        read_bf16(left.source, first + i, k, smaller(n, depth - k), n, to + k);
      }
    __builtin_memset(to, 0, static_cast<size_t>((kPanelRows - count) * stride) * 2);
  }

  // Columns [k, k + 32) of a row of left operands whose rows are `stride` apart.
  LOWRANK_INLINE static void put_left(uint16_t* rows, int64_t stride, int64_t row, int64_t k,
                                      F32 low, F32 high) {
    _mm512_store_si512(rows + row * stride + k, round_two(low, high));
  }

  // Two rows of a source as bf16, [2][padded], where they stand if they can be read there. Rows
  // from `end` on are zero.
  LOWRANK_INLINE static void read_two(const Source& source, int64_t row, int64_t end, int64_t col,
                                      int64_t count, int64_t padded, bool plain, uint16_t* memory,
                                      const uint16_t** rows) {
    for (int i = 0; i < 2; ++i) {
      uint16_t* to = memory + i * padded;
      rows[i] = to;
      if (row + i >= end)
        __builtin_memset(to, 0, static_cast<size_t>(padded) * 2);
      else if (plain)
        rows[i] = plain_at(source, row + i, col);
      else
        read_bf16(source, row + i, col, count, padded, to);
    }
  }

  // A step of a left panel whose k are the source's rows [row, row + count).
  static void pack_left_columns(const Source& source, int64_t row, int64_t count, int64_t col,
                                int64_t cols, uint16_t* to, int64_t stride) {
    alignas(64) uint16_t memory[2 * kPanel];
    const bool plain = is_plain(source) && cols == kPanelRows;
    const __mmask32 mask = 0xffffffffu >> (kPanel - kPanelRows);
    __m512i pairs[2][16];
    for (int64_t i = 0; i < 16; ++i) {
      const uint16_t* rows[2];
      read_two(source, row + 2 * i, row + count, col, cols, kPanel, plain, memory, rows);
      const __m512i even = _mm512_maskz_loadu_epi16(mask, rows[0]);
      const __m512i odd = _mm512_maskz_loadu_epi16(mask, rows[1]);
      pairs[0][i] = pairs_of(even, odd, 0);
      pairs[1][i] = pairs_of(even, odd, 1);
    }
    transpose_pairs<smaller(16, kPanelRows)>(pairs[0], to, stride);
    if constexpr (kPanelRows > 16)
      transpose_pairs<kPanelRows - 16>(pairs[1], to + 16 * stride, stride);
  }

  // 16 columns from `col` on, rows of the source (a weight read forward), into tiles kStep apart.
  static void pack_columns(const Source& source, int64_t col, int64_t count, int64_t k0,
                           int64_t depth, uint16_t* to) {
    const int64_t padded = round_up(depth, kStepDepth);
    const uint16_t* rows = nullptr;
    int64_t stride = source.stride;
    alignas(64) uint16_t memory[16 * kDepthBlock];
    if (count == 16 && is_plain(source) && !source.rows && depth == padded) {
      rows = plain_at(source, col, k0);
    } else {
      rows = memory;
      stride = padded;
      for (int64_t j = 0; j < 16; ++j)
        if (j < count)
          read_bf16(source, col + j, k0, depth, padded, memory + j * padded);
        else
          __builtin_memset(memory + j * padded, 0, static_cast<size_t>(padded) * 2);
    }
    for (int64_t k = 0; k < padded; k += 32, to += kStep) {
      __m512i columns[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) columns[j] = _mm512_loadu_si512(rows + j * stride + k);
      transpose_pairs(columns, to, kPairStride);
    }
  }

  // Rows [k0, k0 + depth) of the source as pairs, for the panels of columns [first, first + count).
  static void pack_pairs(const Source& source, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, uint16_t* to) {
    const int64_t padded = round_up(depth, kStepDepth), panels = round_up(count, kPanel);
    const bool plain = is_plain(source) && count == panels;
    alignas(64) uint16_t memory[2 * kStripCols];
    for (int64_t k = 0; k < padded; k += 2) {
      const uint16_t* rows[2];
      read_two(source, k0 + k, k0 + depth, first, count, panels, plain, memory, rows);
      uint16_t* pair = to + k / 32 * kStep + k % 32 / 2 * kPairStride;
      for (int64_t p = 0; p < panels; p += kPanel) {
        const __m512i even = _mm512_loadu_si512(rows[0] + p), odd = _mm512_loadu_si512(rows[1] + p);
        _mm512_store_si512(pair + p * padded, pairs_of(even, odd, 0));
        _mm512_store_si512(pair + p * padded + kBeside, pairs_of(even, odd, 1));
      }
    }
  }

  static void pack_right(const Operand& right, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, uint16_t* to) {
    const int64_t padded = round_up(depth, kStepDepth);
    if (!right.transposed) {
      for (int64_t p = 0; p < count; p += kStripCols)
        pack_pairs(right.source, first + p, smaller(kStripCols, count - p), k0, depth,
                   to + p * padded);
      return;
    }
    for (int64_t p = 0; p < count; p += kPanel, to += padded * kPanel) {
      pack_columns(right.source, first + p, smaller(16, count - p), k0, depth, to);
      if (count - p <= 16) break;  // the product leaves the second tile out
      pack_columns(right.source, first + p + 16, larger(0, smaller(16, count - p - 16)), k0, depth,
                   to + kBeside);
    }
  }
};
