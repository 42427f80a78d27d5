// Thin products (thin.inl) on the vector units. The left operand is packed as right panels are, so
// that a pair of all ranks stands together.

constexpr int64_t kThinDepth = 128;  // rows of the right operand that stay in the first cache

// Sums [kCount][16], kThinCols apart, += kCount rows of the left operand x 16 columns of the right
// one over `depth` k. A line of memory is asked for with each pair.
template <int kCount>
__attribute__((noinline)) void multiply_thin_tile(const uint16_t* left, const uint16_t* right,
                                                  int64_t stride, int64_t depth,
                                                  const uint16_t* ahead, float* sums) {
  alignas(32) static constexpr uint16_t kZeros[16] = {};
  F32 sum[kCount];
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) sum[i] = load(sums + i * kThinCols);
  for (; depth > 0; depth -= 2, left += 2 * kPanel, right += 2 * stride, ahead += stride) {
    __builtin_prefetch(ahead, 0, 2);
    const auto row_at = [](const uint16_t* from) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    };
    const uint16_t* second = depth > 1 ? right + stride : kZeros;
    const __m512i rows =
        _mm512_inserti64x4(_mm512_castsi256_si512(row_at(right)), row_at(second), 1);
    const U32 both = (U32)pairs_of_halves(rows);
    const auto* words = reinterpret_cast<const BF16Unit::Word*>(left);
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i)
      sum[i] = BF16Unit::add(sum[i], BF16Unit::everywhere(words + i), both);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) store(sums + i * kThinCols, sum[i]);
}

// Bytes of the packed left operand: a panel's pair of columns for every pair of k.
LOWRANK_INLINE int64_t thin_left_bytes(int64_t depth) { return round_up(depth, 32) * kPanel * 2; }

// The sums go to f32 that accumulates, by rows or by columns. `memory` holds
// thin_left_bytes(depth).
void multiply_thin(CpuDevice& device, const Source& left, const Source& right, int64_t rank,
                   int64_t depth, int64_t cols, const Epilogue& epilogue, void* memory) {
  auto* packed = static_cast<uint16_t*>(memory);
  device.pool.parallel_for((depth + kThinDepth - 1) / kThinDepth, [&](int64_t block, int) {
    const int64_t k = block * kThinDepth;
    BF16Policy::pack_pairs(left, 0, rank, k, smaller(kThinDepth, depth - k), packed + k * kPanel);
  });
  const auto tile = rank > 8 ? multiply_thin_tile<16> : multiply_thin_tile<8>;
  device.pool.parallel_for((cols + kThinCols - 1) / kThinCols, [&](int64_t task, int worker) {
    const int64_t col = task * kThinCols, count = smaller(kThinCols, cols - col);
    float* sums = static_cast<float*>(device.thread_scratch(worker));
    for (int64_t i = 0; i < kMostThin * kThinCols; i += kLanes) store(sums + i, F32{});
    const uint16_t* from = BF16Policy::plain_at(right, 0, col);
    for (int64_t k = 0; k < depth; k += kThinDepth)
      for (int64_t i = 0; i < count; i += 16) {
        // The second columns ask for the second half of the next block's rows.
        const int64_t next = smaller(k + kThinDepth + i / 16 * (kThinDepth / 2), depth - 1);
        for (int64_t r = 0; r < rank; r += 16)
          tile(packed + k * kPanel + 2 * r, from + k * right.stride + i, right.stride,
               smaller(kThinDepth, depth - k), from + next * right.stride,
               sums + r * kThinCols + i);
      }
    add_thin(epilogue, sums, rank, col, count);
  });
}
