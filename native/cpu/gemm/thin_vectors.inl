// Thin products (thin.inl) on the vector units: a vector of the right operand's columns times each
// rank's value, which stand together for every k.

// Ranks at once: half the registers.
constexpr int kThinCount = LOWRANK_VECTOR_BYTES == 32 ? 8 : 16;
// A task goes down so many columns at once, and along all of them before it goes on: going down a
// line of every row at once is slower, for rows stand on pages of their own.
constexpr int64_t kThinDepth = 64;
constexpr int64_t kThinCols = 256;  // of a task at most
constexpr int64_t kThinTasks = 4;   // at least
constexpr int64_t kThinAhead = 32;  // memory is asked for so many columns ahead

#ifdef LOWRANK_BF16_PRODUCTS
struct ThinUnit : BF16Unit {
  static constexpr int64_t kStep = 2;  // rows of the right operand in a vector
  LOWRANK_INLINE static Vector rows_at(const BF16* row, int64_t stride, int64_t count) {
    alignas(32) static constexpr uint16_t kZeros[16] = {};
    const auto half_at = [](const void* from) {
      return _mm256_loadu_si256(static_cast<const __m256i*>(from));
    };
    const __m512i low = _mm512_castsi256_si512(half_at(row));
    const void* second = count > 1 ? static_cast<const void*>(row + stride) : kZeros;
    return (U32)pairs_of_halves(_mm512_inserti64x4(low, half_at(second), 1));
  }
  // Words of the pair of `count` rows from k on, kMostThin of them.
  LOWRANK_INLINE static void pack(const Source& left, int64_t rank, int64_t k, int64_t count,
                                  Word* to) {
    BF16Policy::pack_pairs(left, 0, rank, k, count, reinterpret_cast<uint16_t*>(to));
  }
};
#else
struct ThinUnit : F32Unit<0> {
  static constexpr int64_t kStep = 1;
  template <typename T>
  LOWRANK_INLINE static Vector rows_at(const T* row, int64_t, int64_t) {
    return load(row);
  }
  LOWRANK_INLINE static void pack(const Source& left, int64_t rank, int64_t k, int64_t count,
                                  Word* to) {
    for (int64_t i = 0; i < count; ++i, to += kMostThin) {
      read_short_run(left, k + i, 0, rank, to);
      for (int64_t r = rank; r < kMostThin; ++r) to[r] = 0;
    }
  }
};
#endif

// Sums [kCount][kLanes], kThinCols apart, += kCount rows of the left operand x a vector of columns
// of the right one over `depth` k. A line of memory is asked for in each step.
template <int kCount, typename T>
__attribute__((noinline)) void multiply_thin_tile(const ThinUnit::Word* left, const T* right,
                                                  int64_t stride, int64_t depth, const T* ahead,
                                                  float* sums) {
  F32 sum[kCount];
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) sum[i] = load(sums + i * kThinCols);
  for (; depth > 0; depth -= ThinUnit::kStep) {
    __builtin_prefetch(ahead, 0, 2);
    const ThinUnit::Vector rows = ThinUnit::rows_at(right, stride, depth);
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i)
      sum[i] = ThinUnit::add(sum[i], ThinUnit::everywhere(left + i), rows);
    left += kMostThin;
    right += ThinUnit::kStep * stride;
    ahead += stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) store(sums + i * kThinCols, sum[i]);
}

// Bytes of the packed left operand.
LOWRANK_INLINE int64_t thin_left_bytes(int64_t depth) {
  return round_up(depth, 32) * kMostThin * 4 / ThinUnit::kStep;
}

template <typename T>
void multiply_packed_thin(CpuDevice& device, const ThinUnit::Word* left, const Source& right,
                          int64_t rank, int64_t depth, int64_t cols, const Epilogue& epilogue) {
  const auto tile = rank > kThinCount / 2 ? multiply_thin_tile<kThinCount, T>
                                          : multiply_thin_tile<kThinCount / 2, T>;
  const int64_t width = smaller(kThinCols, round_up((cols + kThinTasks - 1) / kThinTasks, 16));
  device.pool.parallel_for((cols + width - 1) / width, [&](int64_t task, int worker) {
    const int64_t col = task * width, count = smaller(width, cols - col);
    float* sums = static_cast<float*>(device.thread_scratch(worker));
    for (int64_t i = 0; i < kMostThin * kThinCols; i += kLanes) store(sums + i, F32{});
    const T* from = static_cast<const T*>(right.data) + col;
    for (int64_t k = 0; k < depth; k += kThinDepth)
      for (int64_t i = 0; i < count; i += kLanes) {
        // The same rows further on, or the next rows. Where a step is of two rows, every other
        // vector asks for the second half of them.
        const int64_t half = i / kLanes % ThinUnit::kStep * (kThinDepth / 2);
        const int64_t next = (i + kThinAhead < count ? k : k + kThinDepth) + half;
        const T* ahead = from + smaller(next, depth - 1) * right.stride + (i + kThinAhead) % count;
        for (int64_t r = 0; r < rank; r += kThinCount)
          tile(left + k / ThinUnit::kStep * kMostThin + r, from + k * right.stride + i,
               right.stride, smaller(kThinDepth, depth - k), ahead, sums + r * kThinCols + i);
      }
    add_thin(epilogue, sums, kThinCols, rank, col, count);
  });
}

// The sums go to f32 that accumulates, by rows or by columns. `memory` holds
// thin_left_bytes(depth).
void multiply_thin(CpuDevice& device, const Source& left, const Source& right, int64_t rank,
                   int64_t depth, int64_t cols, const Epilogue& epilogue, void* memory) {
  auto* packed = static_cast<ThinUnit::Word*>(memory);
  device.pool.parallel_for((depth + kThinDepth - 1) / kThinDepth, [&](int64_t block, int) {
    const int64_t k = block * kThinDepth;
    ThinUnit::pack(left, rank, k, smaller(kThinDepth, depth - k),
                   packed + k / ThinUnit::kStep * kMostThin);
  });
#ifndef LOWRANK_BF16_PRODUCTS
  if (right.element == Element::kF32) {
    multiply_packed_thin<float>(device, packed, right, rank, depth, cols, epilogue);
    return;
  }
#endif
  multiply_packed_thin<BF16>(device, packed, right, rank, depth, cols, epilogue);
}
