// Products of any operands over bf16 panels (panels_amx.inl). f32 operands are rounded to bf16
// while packing; sums are f32.

struct AmxPolicy {
  using Packed = uint16_t;
  using Scope = TileScope;  // every thread that multiplies configures its own tiles
  using Side = Steps;       // what a product does beside multiplying
  static constexpr int kRows = kPanel;
  static constexpr int kCols = kPanel;
  static constexpr bool kStrips = true;
  static constexpr int kRowStep = kRows;
  static constexpr int64_t kDepthUnit = 32;
  static constexpr int64_t kDepthBlock = 576;  // a right panel of this depth stays in L1
  static constexpr int64_t kRowBlock = 512;    // rows of a task at most: block and sums stay in L2
  static constexpr int64_t kPackRows = 96;     // packing an element takes the time of so many rows
  static constexpr int64_t kPackCols = 64;     // a strip's left rows cost so many columns more
  static constexpr int64_t kTaskParts = 2;     // a disturbance costs one of so many parts of a task
  static constexpr int64_t kHeadRows = 256;    // rows of a head task: a strip is packed for each

  LOWRANK_INLINE static void round_run(const float* from, int64_t count, uint16_t* to) {
    for_each_vector(count, [&](int64_t i, int64_t n) {
      store_n(reinterpret_cast<BF16*>(to) + i, load_n(from + i, n), n);
    });
  }

  LOWRANK_INLINE static bool is_plain(const Source& source) {
    return source.element == Element::kBF16 && !source.dropout && source.scale == 1 &&
           source.zero_before == 0;
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

  // The left operand's rows, and right panels, whose stride goes unused.
  struct Factors {
    const uint16_t* left;
    int64_t left_stride;
    const uint16_t* right;
    int64_t right_stride;
    int64_t depth;
  };
  static constexpr bool reads_in_place(const Operand&, int64_t, int64_t) { return false; }
  static constexpr int64_t kShortDepth = kDepthBlock;

  // Whether tiles can read the left operand's rows where they stand.
  LOWRANK_INLINE static bool reads_left_in_place(const Operand& left, int64_t row_end,
                                                 int64_t depth) {
    const Source& source = left.source;
    return !left.transposed && is_plain(source) && !source.rows && row_end % kRows == 0 &&
           depth % kDepthUnit == 0 && source.stride % 32 == 0 &&
           reinterpret_cast<uintptr_t>(source.data) % 64 == 0 &&
           source.stride * 2 % kSetBytes != 0;
  }
  // Rows that are multiples of this apart share few sets of the first cache.
  static constexpr int64_t kSetBytes = 2048;

  // Elements from row to row of a packed left operand.
  LOWRANK_INLINE static int64_t left_stride(int64_t depth) {
    const int64_t padded = round_up(depth, kDepthUnit);
    return padded * 2 % kSetBytes == 0 ? padded + 32 : padded;
  }

  // Rows [first, first + count) of the left operand, count <= kRows; the other rows are zero.
  static void pack_left(const Operand& left, int64_t first, int64_t count, int64_t depth,
                        uint16_t* to) {
    const int64_t padded = round_up(depth, kDepthUnit), stride = left_stride(depth);
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
    __builtin_memset(to, 0, static_cast<size_t>((kRows - count) * stride) * 2);
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
    alignas(64) uint16_t memory[2 * kRows];
    const bool plain = is_plain(source) && cols == kRows;
    __m512i pairs[2][16];
    for (int64_t i = 0; i < 16; ++i) {
      const uint16_t* rows[2];
      read_two(source, row + 2 * i, row + count, col, cols, kRows, plain, memory, rows);
      const __m512i even = _mm512_loadu_si512(rows[0]), odd = _mm512_loadu_si512(rows[1]);
      pairs[0][i] = pairs_of(even, odd, 0);
      pairs[1][i] = pairs_of(even, odd, 1);
    }
    transpose_pairs(pairs[0], to, stride);
    transpose_pairs(pairs[1], to + 16 * stride, stride);
  }

  // 16 columns from `col` on, rows of the source (a weight read forward), into tiles kStep apart.
  static void pack_columns(const Source& source, int64_t col, int64_t count, int64_t k0,
                           int64_t depth, uint16_t* to) {
    const int64_t padded = round_up(depth, kDepthUnit);
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
      transpose_pairs(columns, to);
    }
  }

  // Rows [k0, k0 + depth) of the source as pairs, for the panels of columns [first, first + count).
  static void pack_pairs(const Source& source, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, uint16_t* to) {
    const int64_t padded = round_up(depth, kDepthUnit), panels = round_up(count, kCols);
    const bool plain = is_plain(source) && count == panels;
    alignas(64) uint16_t memory[2 * kStripCols];
    for (int64_t k = 0; k < padded; k += 2) {
      const uint16_t* rows[2];
      read_two(source, k0 + k, k0 + depth, first, count, panels, plain, memory, rows);
      uint16_t* pair = to + k / 32 * kStep + k % 32 / 2 * 32;
      for (int64_t p = 0; p < panels; p += kCols) {
        const __m512i even = _mm512_loadu_si512(rows[0] + p), odd = _mm512_loadu_si512(rows[1] + p);
        _mm512_store_si512(pair + p * padded, pairs_of(even, odd, 0));
        _mm512_store_si512(pair + p * padded + kTile, pairs_of(even, odd, 1));
      }
    }
  }

  static void pack_right(const Operand& right, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, uint16_t* to) {
    const int64_t padded = round_up(depth, kDepthUnit);
    if (!right.transposed) {
      for (int64_t p = 0; p < count; p += kStripCols)
        pack_pairs(right.source, first + p, smaller(kStripCols, count - p), k0, depth,
                   to + p * padded);
      return;
    }
    for (int64_t p = 0; p < count; p += kCols, to += padded * kCols) {
      pack_columns(right.source, first + p, smaller(16, count - p), k0, depth, to);
      if (count - p <= 16) break;  // the product leaves the second tile out
      pack_columns(right.source, first + p + 16, larger(0, smaller(16, count - p - 16)), k0, depth,
                   to + kTile);
    }
  }

  // As F32Policy::multiply, in whole tiles: what isn't needed of one is zero.
  template <bool kStreamRight>
  static void multiply(const Factors* factors, int count, int64_t rows, int64_t cols,
                       const float* from, int64_t from_stride, float* to, int64_t to_stride,
                       Steps& side) {
    if (rows > 16)
      cols > 16 ? multiply_tiles<2, 2, kStreamRight>(factors, count, from, from_stride, to,
                                                     to_stride, side)
                : multiply_tiles<2, 1, kStreamRight>(factors, count, from, from_stride, to,
                                                     to_stride, side);
    else
      cols > 16 ? multiply_tiles<1, 2, kStreamRight>(factors, count, from, from_stride, to,
                                                     to_stride, side)
                : multiply_tiles<1, 1, kStreamRight>(factors, count, from, from_stride, to,
                                                     to_stride, side);
  }

  template <int kRowTiles, int kColTiles, bool kStreamRight>
  LOWRANK_INLINE static void multiply_tiles(const Factors* factors, int count, const float* from,
                                            int64_t from_stride, float* to, int64_t to_stride,
                                            Steps& side) {
    using Product = TileProduct<kRowTiles, kColTiles>;
    Steps steps = side;
    Product::begin(from, from_stride);
    for (; count > 0; --count, ++factors)
      Product::template add<kStreamRight>(left_rows(factors->left, factors->left_stride),
                                          factors->right, factors->depth, steps);
    Product::end(to, to_stride);
    side = steps;
  }
};
