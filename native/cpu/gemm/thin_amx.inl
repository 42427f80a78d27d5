// Thin products (thin.inl) in tiles. 32 rows of the right operand are packed while those before
// them are multiplied.

constexpr int64_t kThinCols = 32;   // a panel: a line of every row
constexpr int64_t kThinPanels = 8;  // of a task at most

// 32 rows, `count` of which there are, of up to 32 columns as a step of a right panel. A line of
// memory is asked for with each row. pack_pairs does the same without that; calling it after asking
// for all lines made a backward pass of 576 columns with an adapter 1.1 times as long.
LOWRANK_INLINE void pack_thin_step(const uint16_t* rows, int64_t stride, int64_t count,
                                   __mmask32 cols, const uint16_t* ahead, uint16_t* to) {
  const __m512i low = pair_index(0), high = pair_index(16);
#pragma GCC unroll 4
  for (int64_t i = 0; i < 32; i += 2, rows += 2 * stride, ahead += 2 * stride, to += 32) {
    __builtin_prefetch(ahead, 0, 2);
    __builtin_prefetch(ahead + stride, 0, 2);
    const __m512i even = _mm512_maskz_loadu_epi16(i < count ? cols : 0, rows);
    const __m512i odd = _mm512_maskz_loadu_epi16(i + 1 < count ? cols : 0, rows + stride);
    _mm512_store_si512(to, _mm512_permutex2var_epi16(even, low, odd));
    _mm512_store_si512(to + kTile, _mm512_permutex2var_epi16(even, high, odd));
  }
}

// Sums [16 kRowTiles][kThinCols] of the left operand's rows x up to 32 columns over `depth` k.
template <int kRowTiles>
__attribute__((noinline)) void multiply_thin_panel(const uint16_t* left, int64_t left_stride,
                                                   const uint16_t* right, int64_t stride,
                                                   int64_t depth, int64_t cols,
                                                   const uint16_t* ahead, float* sums) {
  using Product = TileProduct<kRowTiles, 2>;
  alignas(64) uint16_t steps[2][kStep];
  const __mmask32 mask = 0xffffffffu >> (kThinCols - cols);
  const auto pack = [&](int64_t k) {
    pack_thin_step(right + k * stride, stride, depth - k, mask, ahead + k * stride,
                   steps[k / 32 % 2]);
  };
  Product::begin(nullptr, 0);
  pack(0);
  for (int64_t k = 0; k < depth; k += 32) {
    if (k + 32 < depth) pack(k + 32);
    Product::template add<false>(left_rows(left + k, left_stride), steps[k / 32 % 2], 32, [] {});
  }
  Product::end(sums, kThinCols);
}

LOWRANK_INLINE int64_t thin_left_bytes(int64_t depth) {
  return packed_left_bytes<AmxPolicy>(kMostThin, depth);
}

// The sums go to f32 that accumulates, by rows or by columns. `memory` holds
// thin_left_bytes(depth).
void multiply_thin(CpuDevice& device, const Source& left, const Source& right, int64_t rank,
                   int64_t depth, int64_t cols, const Epilogue& epilogue, void* memory) {
  const PackedLeft<AmxPolicy> packed =
      pack_left<AmxPolicy>(device, {left, true}, 0, rank, depth, memory);
  const int64_t panels = (cols + kThinCols - 1) / kThinCols;
  const int64_t tasks = (panels + kThinPanels - 1) / kThinPanels;
  const int64_t share = (panels + tasks - 1) / tasks;
  device.pool.parallel_for(tasks, [&](int64_t task, int) {
    const TileScope scope;
    (void)scope;
    alignas(64) float sums[kMostThin * kThinCols];
    const int64_t first = task * share * kThinCols;
    const int64_t end = smaller(cols, first + share * kThinCols);
    for (int64_t col = first; col < end; col += kThinCols) {
      const uint16_t* from = AmxPolicy::plain_at(right, 0, col);
      // The next panel's lines, or the same one's.
      const uint16_t* ahead = col + kThinCols < end ? from + kThinCols : from;
      const auto multiply = rank > 16 ? multiply_thin_panel<2> : multiply_thin_panel<1>;
      multiply(packed.data, packed.row_stride, from, right.stride, depth,
               smaller(kThinCols, end - col), ahead, sums);
      add_thin(epilogue, sums, kThinCols, rank, col, smaller(kThinCols, end - col));
    }
  });
}
