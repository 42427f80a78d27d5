// How few_rows.inl takes a weight's words apart, and what it multiplies the parts with. A word
// holds 2 elements of bf16 or 8 codes of NF4.
constexpr int64_t kPairRun = 2 * kLanes;  // elements that a vector of words holds as bf16
constexpr int64_t kCodeRun = 8 * kLanes;  // as codes

#ifdef LOWRANK_BF16_UNIT

// Pairs of bf16. x is bf16 already; a code's value is rounded to it, as products of more rows round
// it once it is scaled (pack_bf16.inl).
struct SplitUnit {
  using X = BF16;
  static constexpr int64_t kVector = kPairRun;
  static constexpr int kPairVectors = 1;  // of a run of pairs
  static constexpr int kCodeVectors = 4;  // of a run of codes
  static constexpr bool kFeelsCaches =
      true;  // fast enough to feel which cache memory is asked into
  struct alignas(64) Values {
    uint16_t bits[2 * 16];
  };
  static constexpr Values kValues = [] {
    Values values{};
    for (int i = 0; i < 32; ++i) values.bits[i] = to_bf16(kNf4Values[i % 16]).bits;
    return values;
  }();

  LOWRANK_INLINE static void put(X* to, const F32* x) { store_two(to, x[0], x[1]); }
  LOWRANK_INLINE static I32 pair_values(I32 words, int) { return words; }
  // Halves of words, each by itself.
  LOWRANK_INLINE static I32 shifted(I32 words, int bits) {
    return (I32)_mm512_srli_epi16((__m512i)words, static_cast<unsigned>(bits));
  }
  // Of the low 4 bits of each half: the fifth, which the instruction reads too, makes no
  // difference.
  LOWRANK_INLINE static I32 code_values(I32 halves) {
    return (I32)_mm512_permutexvar_epi16((__m512i)halves, _mm512_load_si512(kValues.bits));
  }
  LOWRANK_INLINE static F32 add(F32 sum, const X* x, I32 value) {
    return BF16Unit::add(sum, load_raw<U32>(x), (U32)value);
  }
};

#else

// f32. A bf16 is the high half of one.
struct SplitUnit {
  using X = float;
  static constexpr int64_t kVector = kLanes;
  static constexpr int kPairVectors = 2;
  static constexpr int kCodeVectors = 8;
  static constexpr bool kFeelsCaches = false;

  LOWRANK_INLINE static void put(X* to, const F32* x) { store(to, x[0]); }
  LOWRANK_INLINE static I32 pair_values(I32 words, int n) {
    return n == 0 ? (I32)((U32)words << 16) : (I32)((U32)words & 0xffff0000u);
  }
  LOWRANK_INLINE static I32 shifted(I32 words, int bits) { return words >> bits; }
  LOWRANK_INLINE static I32 code_values(I32 words) {
    return (I32)LOWRANK_ISA_NAMESPACE::code_values(words);
  }
  LOWRANK_INLINE static F32 add(F32 sum, const X* x, I32 value) {
    return fma(load(x), (F32)value, sum);
  }
};

#endif
