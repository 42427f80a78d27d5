// Columns of a matrix as vectors; local to the unit as cpu/simd.h is.
#pragma once

#include "cpu/simd.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

// In every group of four lanes: a[0] b[0] a[1] b[1], or with kFrom 2 a[2] b[2] a[3] b[3].
template <int kFrom, int... kLane>
LOWRANK_INLINE F32 interleaved(F32 a, F32 b, LaneList<kLane...>) {
  return __builtin_shufflevector(
      a, b, ((kLane & 1) * kLanes + (kLane & ~3) + (kLane & 3) / 2 + kFrom)...);
}
// a[0] a[1] b[0] b[1], or with kFrom 2 a[2] a[3] b[2] b[3].
template <int kFrom, int... kLane>
LOWRANK_INLINE F32 joined(F32 a, F32 b, LaneList<kLane...>) {
  return __builtin_shufflevector(
      a, b, ((kLane & 2) / 2 * kLanes + (kLane & ~3) + (kLane & 1) + kFrom)...);
}

// Four values of each of kLanes / 4 rows, `stride` apart, side by side.
LOWRANK_INLINE F32 load_groups(const float* from, int64_t stride) {
#if LOWRANK_VECTOR_BYTES == 64
  __m512 groups = _mm512_castps128_ps512(_mm_loadu_ps(from));
  groups = _mm512_insertf32x4(groups, _mm_loadu_ps(from + stride), 1);
  groups = _mm512_insertf32x4(groups, _mm_loadu_ps(from + 2 * stride), 2);
  return (F32)_mm512_insertf32x4(groups, _mm_loadu_ps(from + 3 * stride), 3);
#elif LOWRANK_VECTOR_BYTES == 32
  const __m256 groups = _mm256_castps128_ps256(_mm_loadu_ps(from));
  return (F32)_mm256_insertf128_ps(groups, _mm_loadu_ps(from + stride), 1);
#else
  (void)stride;
  return load(from);
#endif
}

// Columns [0, 4) of kLanes rows that are `stride` apart: lane i of columns[c] is value c of row i.
// Groups are put together by loads, which leaves the shuffling unit a third of a full transpose.
LOWRANK_INLINE void load_columns(const float* rows, int64_t stride, F32* columns) {
  F32 row[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) row[i] = load_groups(rows + i * stride, 4 * stride);
  const F32 low01 = interleaved<0>(row[0], row[1], AllLanes{});
  const F32 low23 = interleaved<0>(row[2], row[3], AllLanes{});
  const F32 high01 = interleaved<2>(row[0], row[1], AllLanes{});
  const F32 high23 = interleaved<2>(row[2], row[3], AllLanes{});
  columns[0] = joined<0>(low01, low23, AllLanes{});
  columns[1] = joined<2>(low01, low23, AllLanes{});
  columns[2] = joined<0>(high01, high23, AllLanes{});
  columns[3] = joined<2>(high01, high23, AllLanes{});
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
