// The product of one tile on the vector units, over words of 32 bits: an f32, or two bf16 of
// successive k, which one instruction multiplies and adds.

// kRightStride: between rows of every right panel, or 0. Known, it leaves the compiler registers
// for all pointers, which is worth a twentieth.
template <int64_t kStride>
struct F32Unit {
  using Word = float;
  using Vector = F32;
  static constexpr int64_t kRightStride = kStride;
  LOWRANK_INLINE static Vector at(const Word* from) { return load(from); }
  LOWRANK_INLINE static Vector everywhere(const Word* from) { return splat(*from); }
  LOWRANK_INLINE static F32 add(F32 sum, Vector a, Vector b) { return fma(a, b, sum); }
};

// A left and a right panel of words. Strides are between rows: of the left panel's m, of the right
// one's k (or pairs of k).
template <typename Word>
struct TileFactors {
  const Word* left;
  int64_t left_stride;
  const Word* right;
  int64_t right_stride;
  int64_t depth;
};

// A line of memory is asked for once in so many steps of depth.
constexpr int kAheadSteps = LOWRANK_VECTOR_BYTES == 32 ? 16 : 4;

#if LOWRANK_VECTOR_BYTES == 32
// 6 x 16 in assembler, kAheadSteps `rounds` times: 12 chains of multiply-adds leave the scheduler
// so little slack that the copies and spills that gcc makes of 16 registers cost a twentieth.
LOWRANK_INLINE void multiply_6x16(F32 (&sums)[2][6], const TileFactors<float>& factors,
                                  const char* const* ahead, int64_t rounds) {
  const struct {
    const float *left, *lower, *right;
    int64_t left_stride, right_stride, right_stride3;
    const char* const* ahead;
    int64_t rounds;
  } given = {factors.left,
             factors.left + 3 * factors.left_stride,
             factors.right,
             4 * factors.left_stride,
             4 * factors.right_stride,
             12 * factors.right_stride,
             ahead,
             rounds};
#define LOWRANK_ROW(k, from, a, low, high)  \
  "vbroadcastss 4*" #k "(%%" from "), %%" a \
  "\n\t"                                    \
  "vfmadd231ps %%ymm12, %%" a ", %[" low    \
  "]\n\t"                                   \
  "vfmadd231ps %%ymm13, %%" a ", %[" high "]\n\t"
#define LOWRANK_STEP(k, from)                                                                    \
  "vmovups (%%" from                                                                             \
  "), %%ymm12\n\t"                                                                               \
  "vmovups 32(%%" from "), %%ymm13\n\t" LOWRANK_ROW(k, "rsi", "ymm14", "a0", "b0") LOWRANK_ROW(  \
      k, "rsi,%%r8", "ymm15", "a1", "b1") LOWRANK_ROW(k, "rsi,%%r8,2", "ymm14", "a2", "b2")      \
      LOWRANK_ROW(k, "rdi", "ymm15", "a3", "b3") LOWRANK_ROW(k, "rdi,%%r8", "ymm14", "a4", "b4") \
          LOWRANK_ROW(k, "rdi,%%r8,2", "ymm15", "a5", "b5")
#define LOWRANK_FOUR_STEPS(a, b, c, d) \
  LOWRANK_STEP(a, "rdx")               \
  LOWRANK_STEP(b, "rdx,%%r9")          \
  LOWRANK_STEP(c, "rdx,%%r9,2")        \
  LOWRANK_STEP(d, "rdx,%%r10")         \
  "lea (%%rdx,%%r9,4), %%rdx\n\t"
  __asm__ volatile(
      "mov (%[given]), %%rsi\n\t"
      "mov 8(%[given]), %%rdi\n\t"
      "mov 16(%[given]), %%rdx\n\t"
      "mov 24(%[given]), %%r8\n\t"
      "mov 32(%[given]), %%r9\n\t"
      "mov 40(%[given]), %%r10\n\t"
      "mov 48(%[given]), %%rcx\n\t"
      "mov 56(%[given]), %%r11\n\t"
      ".p2align 6\n"
      "1:\n\t"
      "mov (%%rcx), %%rax\n\t"
      "prefetcht1 (%%rax)\n\t"  //
      LOWRANK_FOUR_STEPS(0, 1, 2, 3)
      LOWRANK_FOUR_STEPS(4, 5, 6, 7)
      LOWRANK_FOUR_STEPS(8, 9, 10, 11)
      LOWRANK_FOUR_STEPS(12, 13, 14, 15)
      "add $64, %%rsi\n\t"
      "add $64, %%rdi\n\t"
      "add $8, %%rcx\n\t"
      "dec %%r11\n\t"
      "jnz 1b\n\t"
      : [a0] "+x"(sums[0][0]), [a1] "+x"(sums[0][1]), [a2] "+x"(sums[0][2]),
        [a3] "+x"(sums[0][3]), [a4] "+x"(sums[0][4]), [a5] "+x"(sums[0][5]),
        [b0] "+x"(sums[1][0]), [b1] "+x"(sums[1][1]), [b2] "+x"(sums[1][2]),
        [b3] "+x"(sums[1][3]), [b4] "+x"(sums[1][4]), [b5] "+x"(sums[1][5])
      : [given] "r"(&given)
      : "memory", "cc", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm12",
        "xmm13", "xmm14", "xmm15");
#undef LOWRANK_FOUR_STEPS
#undef LOWRANK_STEP
#undef LOWRANK_ROW
}
#endif

// to [kCount, kVectors * kLanes] = from (null: 0) + the sum of `count` products. A line of `ahead`
// is asked for every kAheadSteps steps.
template <typename Unit, int kVectors, int kCount>
__attribute__((noinline)) void multiply_tile(const TileFactors<typename Unit::Word>* factors,
                                             int count, const float* from, int64_t from_stride,
                                             float* to, int64_t to_stride, const Ahead& ahead) {
  using Word = typename Unit::Word;
  using Vector = typename Unit::Vector;
  F32 sums[kVectors][kCount];
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[v][i] = F32{};
  }
  const char* const* line = ahead.lines;
  for (; count > 0; --count, ++factors) {
    const Word* right = factors->right;
    const int64_t left_stride = factors->left_stride;
    const int64_t right_stride = Unit::kRightStride ? Unit::kRightStride : factors->right_stride;
    const int64_t depth = factors->depth;
    int64_t rounds = depth / kAheadSteps;
    // Rows share pointers, three each, so that all stay in registers.
    constexpr int kBases = (kCount + 2) / 3;
    const Word* bases[kBases];
#pragma GCC unroll 4
    for (int j = 0; j < kBases; ++j) bases[j] = factors->left + 3 * j * left_stride;
    const auto advance = [&](int64_t steps) {
      right += steps * right_stride;
      __asm__("" : "+r"(right));
#pragma GCC unroll 4
      for (int j = 0; j < kBases; ++j) {
        bases[j] += steps;
        __asm__("" : "+r"(bases[j]));
      }
    };
#if LOWRANK_VECTOR_BYTES == 32
    if constexpr (kVectors == 2 && kCount == 6)
      if (rounds > 0) {
        multiply_6x16(sums, *factors, line, rounds);
        advance(rounds * kAheadSteps);
        line += rounds;
        rounds = 0;
      }
#endif
    for (; rounds > 0; --rounds, ++line) {
      __builtin_prefetch(*line, 0, 2);
      for (int u = 0; u < kAheadSteps; u += 4) {
#pragma GCC unroll 4
        for (int s = 0; s < 4; ++s) {
          Vector b[kVectors];
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v) b[v] = Unit::at(right + s * right_stride + v * kLanes);
#pragma GCC unroll 12
          for (int i = 0; i < kCount; ++i) {
            const Vector a = Unit::everywhere(bases[i / 3] + i % 3 * left_stride + s);
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) sums[v][i] = Unit::add(sums[v][i], a, b[v]);
          }
        }
        advance(4);
      }
    }
    for (int64_t k = depth % kAheadSteps; k > 0; --k) {
#pragma GCC unroll 12
      for (int i = 0; i < kCount; ++i) {
        const Vector a = Unit::everywhere(bases[i / 3] + i % 3 * left_stride);
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v)
          sums[v][i] = Unit::add(sums[v][i], a, Unit::at(right + v * kLanes));
      }
      advance(1);
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kCount; ++i, to += to_stride) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v)
      store(to + v * kLanes,
            from ? load(from + i * from_stride + v * kLanes) + sums[v][i] : sums[v][i]);
  }
}

// The same for the first `rows` of kCount rows, as many as they need in steps of kStep.
template <typename Unit, int kVectors, int kCount, int kStep>
LOWRANK_INLINE void multiply_rows(const TileFactors<typename Unit::Word>* factors, int count,
                                  int64_t rows, const float* from, int64_t from_stride, float* to,
                                  int64_t to_stride, const Ahead& ahead) {
  if constexpr (kCount > kStep) {
    if (rows <= kCount - kStep) {
      multiply_rows<Unit, kVectors, kCount - kStep, kStep>(factors, count, rows, from, from_stride,
                                                           to, to_stride, ahead);
      return;
    }
  }
  multiply_tile<Unit, kVectors, kCount>(factors, count, from, from_stride, to, to_stride, ahead);
}

// The same for `cols` columns of two vectors: one vector may do.
template <typename Unit, int kCount, int kStep>
LOWRANK_INLINE void multiply_panel(const TileFactors<typename Unit::Word>* factors, int count,
                                   int64_t rows, int64_t cols, const float* from,
                                   int64_t from_stride, float* to, int64_t to_stride,
                                   const Ahead& ahead) {
  if (cols <= kLanes)
    multiply_rows<Unit, 1, kCount, kStep>(factors, count, rows, from, from_stride, to, to_stride,
                                          ahead);
  else
    multiply_rows<Unit, 2, kCount, kStep>(factors, count, rows, from, from_stride, to, to_stride,
                                          ahead);
}
