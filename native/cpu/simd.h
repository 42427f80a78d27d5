// One vector type for every instruction set, on the vector extensions of gcc and clang. Included by
// units compiled for one instruction set only (cpu/isa/README.md): it needs LOWRANK_ISA_NAMESPACE
// and LOWRANK_VECTOR_BYTES (16 NEON, 32 AVX2, 64 AVX-512), and everything in it is local to the
// unit.
//
// Operators (+ - * / < ?:) work element by element and round like scalar f32; fma() is the only
// fused operation. In comparisons NaN is false.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

#if LOWRANK_VECTOR_BYTES == 16
#include <arm_neon.h>
#else
#include <immintrin.h>
#endif

// A macro because always_inline has no standard spelling: shared inline code must never be emitted.
#define LOWRANK_INLINE inline __attribute__((always_inline))

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

inline constexpr int kLanes = LOWRANK_VECTOR_BYTES / 4;

using F32 = float __attribute__((vector_size(LOWRANK_VECTOR_BYTES)));
using I32 = int32_t __attribute__((vector_size(LOWRANK_VECTOR_BYTES)));
using U32 = uint32_t __attribute__((vector_size(LOWRANK_VECTOR_BYTES)));
using F64 = double __attribute__((vector_size(LOWRANK_VECTOR_BYTES)));
using HalfF32 = float __attribute__((vector_size(LOWRANK_VECTOR_BYTES / 2)));
using U16 = uint16_t __attribute__((vector_size(LOWRANK_VECTOR_BYTES / 2)));  // kLanes of them

LOWRANK_INLINE F32 splat(float x) { return x - F32{}; }
LOWRANK_INLINE I32 splat_int(int32_t x) { return x - I32{}; }
LOWRANK_INLINE U32 splat_bits(uint32_t x) { return x - U32{}; }

// ---- Load and store, unaligned ------------------------------------------------------------------

template <typename V, typename T>
LOWRANK_INLINE V load_raw(const T* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

// Asks for the line of memory at `line`, into the first or the second cache.
LOWRANK_INLINE void ask_for(const void* line, bool second_cache) {
  if (second_cache)
    __builtin_prefetch(line, 0, 2);
  else
    __builtin_prefetch(line, 0, 3);
}

LOWRANK_INLINE F32 load(const float* from) { return load_raw<F32>(from); }
LOWRANK_INLINE void store(float* to, F32 value) { __builtin_memcpy(to, &value, sizeof value); }

// gcc 12 makes six instructions of the generic widening.
LOWRANK_INLINE U32 widen(U16 bits) {
#if LOWRANK_VECTOR_BYTES == 64
  return (U32)_mm512_cvtepu16_epi32((__m256i)bits);
#elif LOWRANK_VECTOR_BYTES == 32
  return (U32)_mm256_cvtepu16_epi32((__m128i)bits);
#else
  return __builtin_convertvector(bits, U32);
#endif
}

// kLanes bytes as integers.
LOWRANK_INLINE I32 load_bytes(const uint8_t* from) {
#if LOWRANK_VECTOR_BYTES == 64
  return (I32)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif LOWRANK_VECTOR_BYTES == 32
  return (I32)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#else
  return I32{from[0], from[1], from[2], from[3]};
#endif
}

LOWRANK_INLINE F32 from_bf16(U16 bits) { return (F32)(widen(bits) << 16); }
LOWRANK_INLINE F32 load(const BF16* from) { return from_bf16(load_raw<U16>(from)); }

// The low 16 bits of every lane.
LOWRANK_INLINE U16 narrow(U32 bits) {
#if LOWRANK_VECTOR_BYTES == 32
  const __m256i packed = _mm256_packus_epi32((__m256i)bits, (__m256i)bits);
  return (U16)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(bits, U16);
#endif
}

// Round to nearest, ties to even; NaN stays NaN (core/dtype.h to_bf16, lane by lane).
LOWRANK_INLINE U16 to_bf16_bits(F32 value) {
#ifdef __AVX512BF16__
  // Subnormals become 0, as where tiles multiply.
  return (U16)_mm512_cvtneps_pbh((__m512)value);
#endif
  const U32 bits = (U32)value;
  const U32 rounded = (bits + (0x7fffu + ((bits >> 16) & 1u))) >> 16;
  const U32 quiet = (bits >> 16) | 0x40u;
  return narrow(value == value ? rounded : quiet);
}
LOWRANK_INLINE void store(BF16* to, F32 value) {
  const U16 bits = to_bf16_bits(value);
  __builtin_memcpy(to, &bits, sizeof bits);
}

#if LOWRANK_VECTOR_BYTES == 64
// {low, high} as 32 bf16, low first.
LOWRANK_INLINE __m512i round_two(F32 low, F32 high) {
#ifdef __AVX512BF16__
  return (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
#else
  return _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)to_bf16_bits(low)),
                            (__m256i)to_bf16_bits(high), 1);
#endif
}
#endif

// Two vectors one after the other.
LOWRANK_INLINE void store_two(float* to, F32 low, F32 high) {
  store(to, low);
  store(to + kLanes, high);
}
LOWRANK_INLINE void store_two(BF16* to, F32 low, F32 high) {
#if LOWRANK_VECTOR_BYTES == 64
  _mm512_storeu_si512(to, round_two(low, high));
#else
  store(to, low);
  store(to + kLanes, high);
#endif
}

LOWRANK_INLINE F32 load(const F16* from) {
  const U16 bits = load_raw<U16>(from);
#if LOWRANK_VECTOR_BYTES == 64
  return (F32)_mm512_cvtph_ps((__m256i)bits);
#elif LOWRANK_VECTOR_BYTES == 32
  return (F32)_mm256_cvtph_ps((__m128i)bits);
#else
  return (F32)vcvt_f32_f16((float16x4_t)bits);
#endif
}
LOWRANK_INLINE void store(F16* to, F32 value) {
#if LOWRANK_VECTOR_BYTES == 64
  const auto bits = _mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT);
#elif LOWRANK_VECTOR_BYTES == 32
  const auto bits = _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#else
  const auto bits = vcvt_f16_f32((float32x4_t)value);
#endif
  __builtin_memcpy(to, &bits, sizeof bits);
}

// The first `count` < kLanes elements; the other lanes are 0.
template <typename T>
LOWRANK_INLINE F32 load_part(const T* from, int64_t count) {
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = from[i];
  return load(buffer);
}
template <typename T>
LOWRANK_INLINE void store_part(T* to, F32 value, int64_t count) {
  T buffer[kLanes];
  store(buffer, value);
  for (int64_t i = 0; i < count; ++i) to[i] = buffer[i];
}

// `count` elements, kLanes at most; for use in the loops below.
template <typename T>
LOWRANK_INLINE F32 load_n(const T* from, int64_t n) {
  return n == kLanes ? load(from) : load_part(from, n);
}
template <typename T>
LOWRANK_INLINE void store_n(T* to, F32 value, int64_t n) {
  n == kLanes ? store(to, value) : store_part(to, value, n);
}

// Calls body(i, n) over [0, count): n == kLanes for whole vectors, and once n < kLanes for the
// rest.
template <typename Body>
LOWRANK_INLINE void for_each_vector(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, int64_t{kLanes});
  if (i < count) body(i, count - i);
}

// acc = body(i, n, acc) over [0, count), in four independent partial vectors that are added at the
// end.
template <typename Body>
LOWRANK_INLINE F32 accumulate_vectors(int64_t count, const Body& body) {
  F32 sum0{}, sum1{}, sum2{}, sum3{};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    sum0 = body(i, int64_t{kLanes}, sum0);
    sum1 = body(i + kLanes, int64_t{kLanes}, sum1);
    sum2 = body(i + 2 * kLanes, int64_t{kLanes}, sum2);
    sum3 = body(i + 3 * kLanes, int64_t{kLanes}, sum3);
  }
  for (; i + kLanes <= count; i += kLanes) sum0 = body(i, int64_t{kLanes}, sum0);
  if (i < count) sum0 = body(i, count - i, sum0);
  return (sum0 + sum1) + (sum2 + sum3);
}

// ---- Arithmetic ---------------------------------------------------------------------------------

// a * b + c with one rounding.
LOWRANK_INLINE F32 fma(F32 a, F32 b, F32 c) {
#if LOWRANK_VECTOR_BYTES == 64
  return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif LOWRANK_VECTOR_BYTES == 32
  return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#endif
}

LOWRANK_INLINE F32 sqrt(F32 x) {
#if LOWRANK_VECTOR_BYTES == 64
  return (F32)_mm512_sqrt_ps((__m512)x);
#elif LOWRANK_VECTOR_BYTES == 32
  return (F32)_mm256_sqrt_ps((__m256)x);
#else
  return (F32)vsqrtq_f32((float32x4_t)x);
#endif
}

// `b` where either is NaN.
LOWRANK_INLINE F32 max(F32 a, F32 b) { return a > b ? a : b; }
LOWRANK_INLINE F32 min(F32 a, F32 b) { return a < b ? a : b; }

LOWRANK_INLINE F32 abs(F32 x) { return (F32)((U32)x & 0x7fffffffu); }

// ---- Reductions: always the same tree, whatever the data
// -----------------------------------------

// Every lane's number, to make shuffles of.
template <int... kLane>
struct LaneList {};
#if LOWRANK_VECTOR_BYTES == 64
using AllLanes = LaneList<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif LOWRANK_VECTOR_BYTES == 32
using AllLanes = LaneList<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = LaneList<0, 1, 2, 3>;
#endif

template <int kBy, int... kLane>
LOWRANK_INLINE F32 rotated(F32 x, LaneList<kLane...>) {
  return __builtin_shufflevector(x, x, ((kLane + kBy) % kLanes)...);
}

// Halves are folded onto each other: lane i meets lane i + kLanes / 2 first.
template <int kWidth = kLanes / 2>
LOWRANK_INLINE float reduce_add(F32 x) {
  x += rotated<kWidth>(x, AllLanes{});
  if constexpr (kWidth > 1)
    return reduce_add<kWidth / 2>(x);
  else
    return x[0];
}
template <int kWidth = kLanes / 2>
LOWRANK_INLINE float reduce_max(F32 x) {
  x = max(x, rotated<kWidth>(x, AllLanes{}));
  if constexpr (kWidth > 1)
    return reduce_max<kWidth / 2>(x);
  else
    return x[0];
}
LOWRANK_INLINE double reduce_add(F64 x) {
  constexpr int kCount = LOWRANK_VECTOR_BYTES / 8;
  double lanes[kCount];
  __builtin_memcpy(lanes, &x, sizeof x);
  for (int width = kCount / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
