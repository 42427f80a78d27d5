// Vectors of words that are two bf16 of successive k, which one instruction multiplies and adds.
struct BF16Unit {
  using Word = uint32_t;
  using Vector = U32;
  static constexpr int64_t kRightStride = 2 * kLanes;
  LOWRANK_INLINE static Vector at(const Word* from) { return load_raw<U32>(from); }
  LOWRANK_INLINE static Vector everywhere(const Word* from) {
    uint32_t word;
    __builtin_memcpy(&word, from, sizeof word);
    return splat_bits(word);
  }
  // Subnormals count as 0 (Intel SDM, VDPBF16PS).
  LOWRANK_INLINE static F32 add(F32 sum, Vector a, Vector b) {
    return (F32)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
};
