// Elementary functions of vectors; local to the unit as cpu/simd.h is.
#pragma once

#include "cpu/simd.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

constexpr float kLog2E = 0x1.715476p+0f;

// e^x within 1 ulp (test/native/cpu/simd_test.cc measures it). Above 88.7228 infinity; below
// -87.3365, where the result would be subnormal, 0; NaN stays NaN. Cody-Waite reduction x = k ln2 +
// r, then 1 + r + r^2 q(r) with q a minimax polynomial of degree 4 on |r| <= ln2 / 2
// (error 4.4e-9).
LOWRANK_INLINE F32 exp(F32 x) {
  constexpr float kHighest = 88.8f, kLowest = -87.33654f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const F32 clamped = x > kHighest ? splat(kHighest) : x;
  const F32 shifted = fma(clamped, splat(kLog2E), splat(kRound));
  const F32 k = shifted - kRound;
  F32 r = fma(k, splat(-0x1.62e400p-1f), clamped);
  r = fma(k, splat(-0x1.7f7d1cp-20f), r);
  F32 q = splat(0x1.6a234ep-10f);
  q = fma(q, r, splat(0x1.123a6cp-7f));
  q = fma(q, r, splat(0x1.5558f4p-5f));
  q = fma(q, r, splat(0x1.555490p-3f));
  q = fma(q, r, splat(0x1.fffffcp-2f));
  const F32 p = fma(q, r * r, r) + 1.0f;
#if LOWRANK_VECTOR_BYTES == 64
  return x < kLowest ? F32{} : (F32)_mm512_scalef_ps((__m512)p, (__m512)k);
#else
  // 2^k in two factors: 2^128 isn't a float.
  const I32 exponent = (I32)shifted - (I32)splat(kRound);
  const I32 half = exponent >> 1;
  const F32 scale1 = (F32)((half + 127) << 23), scale2 = (F32)((exponent - half + 127) << 23);
  return x < kLowest ? F32{} : p * scale1 * scale2;
#endif
}

// 2^r for r in [0, 1]: a minimax polynomial of degree 5, relative error 7.5e-8.
LOWRANK_INLINE F32 exp2_polynomial(F32 r) {
  F32 p = splat(0x1.ec31e6p-10f);
  p = fma(p, r, splat(0x1.26902ap-7f));
  p = fma(p, r, splat(0x1.c9543cp-5f));
  p = fma(p, r, splat(0x1.ebd5aap-3f));
  p = fma(p, r, splat(0x1.62e4f6p-1f));
  return fma(p, r, splat(0x1.fffffep-1f));
}

// 2^x within 3 ulp for x <= 127, in half of exp's time; 0 below -126. NaN stays NaN. 2^x =
// 2^floor(x) 2^(x - floor(x)).
LOWRANK_INLINE F32 exp2(F32 x) {
#if LOWRANK_VECTOR_BYTES == 64
  const F32 r = (F32)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
#elif LOWRANK_VECTOR_BYTES == 32
  const F32 whole = (F32)_mm256_floor_ps((__m256)x), r = x - whole;
#else
  const F32 whole = (F32)vrndmq_f32((float32x4_t)x), r = x - whole;
#endif
  const F32 p = exp2_polynomial(r);
#if LOWRANK_VECTOR_BYTES == 64
  const __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
  return (F32)_mm512_maskz_scalef_ps(kept, (__m512)p, (__m512)x);
#else
  const I32 scaled = (I32)p + (__builtin_convertvector(whole, I32) << 23);
  return x < -126.0f ? F32{} : (F32)scaled;
#endif
}

#if LOWRANK_VECTOR_BYTES == 64
// exp2 where `kept`, else 0; below -126 as at -126, so that nothing is subnormal.
LOWRANK_INLINE F32 exp2_where(__mmask16 kept, F32 x) {
  x = max(splat(-126.0f), x);
  const F32 r = (F32)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  return (F32)_mm512_maskz_scalef_ps(kept, (__m512)exp2_polynomial(r), (__m512)x);
}

// ln x within 3 ulp for normal x up to 2^127: x = 2^k m with m in [sqrt(1/2), sqrt(2)), and ln m =
// 2 atanh((m - 1) / (m + 1)) by its series.
LOWRANK_INLINE F32 log(F32 x) {
  const F32 k = (F32)_mm512_getexp_ps((__m512)(x * 0x1.6a09e6p+0f));
  const F32 m = (F32)_mm512_scalef_ps((__m512)x, (__m512)-k);
  const F32 s = (m - 1.0f) / (m + 1.0f), z = s * s;
  F32 p = splat(2.0f / 9);
  p = fma(p, z, splat(2.0f / 7));
  p = fma(p, z, splat(2.0f / 5));
  p = fma(p, z, splat(2.0f / 3));
  return fma(k, splat(0x1.62e43p-1f), fma(p * z, s, s + s));
}
#endif

// e^x for the weights of a softmax, x <= 88: the rounding of x log2(e) adds |x| ulp to exp2's
// error, where the weight is e^x of the largest.
LOWRANK_INLINE F32 softmax_exp(F32 x) { return exp2(x * kLog2E); }

// 1 / (1 + e^-x) within 3 ulp; 0 below -88.73.
LOWRANK_INLINE F32 sigmoid(F32 x) { return 1.0f / (1.0f + exp(-x)); }

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
