// Products of any operands over bf16 panels (panels_amx.inl). f32 operands are rounded to bf16
// while packing; sums are f32.

struct AmxPolicy {
  using Packed = uint16_t;
  using Scope = TileScope;  // every thread that multiplies configures its own tiles
  static constexpr int kRows = kPanel;
  static constexpr int kCols = kPanel;
  static constexpr int64_t kDepthUnit = 32;
  static constexpr int64_t kDepthBlock = 512;
  static constexpr int64_t kRowBlock = 1024;  // rows of a task at most
  static constexpr int64_t kPackRows = 256;   // packing an element takes the time of so many rows
  static constexpr int64_t kHeadRows = 512;   // rows of a head task: a strip is packed for each

  LOWRANK_INLINE static void round_run(const float* from, int64_t count, uint16_t* to) {
    for_each_vector(count, [&](int64_t i, int64_t n) {
      store_n(reinterpret_cast<BF16*>(to) + i, load_n(from + i, n), n);
    });
  }

  // One row's run as bf16, zero up to `padded`.
  LOWRANK_INLINE static void read_bf16(const Source& source, int64_t row, int64_t col,
                                       int64_t count, int64_t padded, uint16_t* to) {
    const bool plain = source.element == Element::kBF16 && !source.dropout && source.scale == 1 &&
                       row >= source.zero_before;
    if (plain) {
      const int64_t at = (source.rows ? source.rows[row] : row) * source.stride + col;
      __builtin_memcpy(to, static_cast<const uint16_t*>(source.data) + at,
                       static_cast<size_t>(count) * 2);
    } else {
      float run[kDepthBlock];
      read_run(source, row, col, count, run);
      round_run(run, count, to);
    }
    for (int64_t i = count; i < padded; ++i) to[i] = 0;
  }

  // Panels are packed, so that the strides go unused.
  struct Factors {
    const uint16_t* left;
    int64_t left_stride;
    const uint16_t* right;
    int64_t right_stride;
    int64_t depth;
  };
  static constexpr bool reads_in_place(const Operand&, int64_t) { return false; }
  static constexpr bool reads_in_place(const Operand&, int64_t, int64_t) { return false; }
  static constexpr int64_t kShortDepth = kDepthBlock;

  static void pack_left(const Operand& left, int64_t first, int64_t count, int64_t depth,
                        uint16_t* to) {
    const int64_t padded = round_up(depth, kDepthUnit);
    alignas(64) uint16_t run[kDepthBlock];
    if (count < kRows || left.transposed)
      __builtin_memset(to, 0, static_cast<size_t>(padded * kRows) * 2);
    if (left.transposed) {
      for (int64_t k = 0; k < depth; ++k) {
        read_bf16(left.source, k, first, count, count, run);
        uint16_t* step = to + k / 32 * kStep + k % 32;
        for (int64_t i = 0; i < count; ++i) step[i / 16 * kTile + i % 16 * 32] = run[i];
      }
      return;
    }
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t k0 = 0; k0 < padded; k0 += kDepthBlock) {
        const int64_t n = smaller(kDepthBlock, padded - k0);
        read_bf16(left.source, first + i, k0, smaller(n, depth - k0), n, run);
        uint16_t* row = to + k0 / 32 * kStep + i / 16 * kTile + i % 16 * 32;
        for (int64_t k = 0; k < n; k += 32, row += kStep) __builtin_memcpy(row, run + k, 64);
      }
    }
  }

  // 16 columns x `padded` k from rows of the source (a weight read forward) into tiles kStep apart.
  static void pack_columns(const Operand& right, int64_t first, int64_t count, int64_t k0,
                           int64_t depth, int64_t padded, uint16_t* to) {
    alignas(64) uint16_t runs[16][kDepthBlock];
    for (int64_t j = 0; j < 16; ++j) {
      if (j < count)
        read_bf16(right.source, first + j, k0, depth, padded, runs[j]);
      else
        __builtin_memset(runs[j], 0, static_cast<size_t>(padded) * 2);
    }
    for (int64_t k = 0; k < padded; k += 32, to += kStep) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) rows[j] = _mm512_load_si512(runs[j] + k);
      transpose_pairs(rows, to);
    }
  }

  // The same from a source whose rows are k.
  static void pack_pairs(const Operand& right, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, int64_t padded, uint16_t* to) {
    alignas(64) uint16_t even[kCols], odd[kCols];
    for (int64_t k = 0; k < padded; k += 2) {
      __builtin_memset(even, 0, sizeof even);
      __builtin_memset(odd, 0, sizeof odd);
      if (k < depth) read_bf16(right.source, k0 + k, first, count, count, even);
      if (k + 1 < depth) read_bf16(right.source, k0 + k + 1, first, count, count, odd);
      uint16_t* pair = to + k / 32 * kStep + k % 32 / 2 * 32;
#pragma GCC unroll 2
      for (int t = 0; t < 2; ++t) {
        const __m512i low = _mm512_cvtepu16_epi32(
            _mm256_load_si256(reinterpret_cast<const __m256i*>(even + 16 * t)));
        const __m512i high = _mm512_cvtepu16_epi32(
            _mm256_load_si256(reinterpret_cast<const __m256i*>(odd + 16 * t)));
        _mm512_store_si512(pair + t * kTile, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
    }
  }

  static void pack_right(const Operand& right, int64_t first, int64_t count, int64_t k0,
                         int64_t depth, uint16_t* to) {
    const int64_t padded = round_up(depth, kDepthUnit);
    for (int64_t p = 0; p < count; p += kCols, to += padded * kCols) {
      const int64_t cols = smaller(kCols, count - p);
      if (!right.transposed) {
        pack_pairs(right, first + p, cols, k0, depth, padded, to);
        continue;
      }
      pack_columns(right, first + p, smaller(16, cols), k0, depth, padded, to);
      pack_columns(right, first + p + 16, larger(0, cols - 16), k0, depth, padded, to + kTile);
    }
  }

  // As F32Policy::multiply. Rows and columns that aren't needed are computed too: they are zero.
  static void multiply(const Factors* factors, int count, int64_t /*rows*/, int64_t /*cols*/,
                       const float* from, int64_t from_stride, float* to, int64_t to_stride) {
    for (; count > 0; --count, ++factors, from = to, from_stride = to_stride)
      multiply_panels(factors->left, factors->right, factors->depth, from, from_stride, to,
                      to_stride);
  }
};
