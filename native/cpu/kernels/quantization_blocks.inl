// Absmax, scaling and code search by vectors, bit for bit as in reference/nf4.h, for whole blocks.

using U8 = uint8_t __attribute__((vector_size(kLanes)));

LOWRANK_INLINE I32 load_codes(const uint8_t* from) {
  return __builtin_convertvector(load_raw<U8>(from), I32);
}
LOWRANK_INLINE void store_codes(uint8_t* to, I32 codes) {
#if LOWRANK_VECTOR_BYTES == 64
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)codes));
#else
  const U8 bytes = __builtin_convertvector(codes, U8);
  __builtin_memcpy(to, &bytes, sizeof bytes);
#endif
}

LOWRANK_INLINE F32 gather(const float* table, I32 index) {
#if LOWRANK_VECTOR_BYTES == 64
  return (F32)_mm512_i32gather_ps((__m512i)index, table, 4);
#elif LOWRANK_VECTOR_BYTES == 32
  return (F32)_mm256_i32gather_ps(table, (__m256i)index, 4);
#else
  return F32{table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
#endif
}

// The values of a block; NaN when there is one.
template <int64_t kCount, typename Load>
LOWRANK_INLINE float absmax_of(const Load& load_at) {
  F32 largest{};
  I32 unordered{};
  for (int64_t i = 0; i < kCount; i += kLanes) {
    const F32 x = load_at(i);
    largest = max(abs(x), largest);
    unordered |= x != x;
  }
  bool any = false;
  for (int lane = 0; lane < kLanes; ++lane) any |= unordered[lane] != 0;
  return any ? __builtin_nanf("") : reduce_max(largest);
}

// What scales a whole block into [-1, 1].
LOWRANK_INLINE float inverse_absmax(float absmax) {
  return 1.0f / (absmax < kMinAbsmax ? kMinAbsmax : absmax);
}
LOWRANK_INLINE F32 clamp_to_unit(F32 x) {
  x = x < -1.0f ? splat(-1.0f) : x;
  return x > 1.0f ? splat(1.0f) : x;
}

// The number of the 15 thresholds below x; 15 for NaN.
LOWRANK_INLINE I32 nf4_codes(F32 x) {
  I32 codes = splat_int(15);
  for (int i = 0; i < 15; ++i) codes += kThresholds[i] >= x;  // true is -1
  return codes;
}

// The number of the 255 thresholds below x; 255 for NaN.
LOWRANK_INLINE I32 dynamic_codes(const float* thresholds, F32 x) {
  I32 codes{};
  for (int step = 128; step > 0; step /= 2) {
    const I32 at_least = gather(thresholds + step - 1, codes) >= x;
    codes += ~at_least & step;
  }
  return codes;
}

// A whole block of kOptimizerBlock values.
LOWRANK_INLINE void quantize_dynamic(const float* x, const float* thresholds, uint8_t* codes,
                                     float* absmax) {
  static_assert(kOptimizerBlock == kNf4NestedBlock);
  *absmax = absmax_of<kOptimizerBlock>([&](int64_t i) { return load(x + i); });
  const float inverse = inverse_absmax(*absmax);
  for (int64_t i = 0; i < kOptimizerBlock; i += kLanes)
    store_codes(codes + i, dynamic_codes(thresholds, clamp_to_unit(load(x + i) * inverse)));
}
