// A handful of rows (few_rows.inl) times NF4 in whole blocks.

// The codes of a run and what its lanes are scaled by. Where a run is two blocks (64 bytes), a
// row's end may hold one.
LOWRANK_INLINE I32 load_codes(const uint8_t* codes, bool whole) {
#if LOWRANK_VECTOR_BYTES == 64
  const __mmask16 lanes = whole ? 0xffff : 0xff;
  return (I32)_mm512_maskz_loadu_epi32(lanes, codes);
#else
  (void)whole;
  return load_raw<I32>(codes);
#endif
}
LOWRANK_INLINE F32 lanes_absmax(const float* absmax, bool whole) {
#if LOWRANK_VECTOR_BYTES == 64
  if (!whole) return splat(*absmax);  // the other block's codes are 0, and so is its x
  double both;
  __builtin_memcpy(&both, absmax, sizeof both);
  const __m512i index = _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
  return (F32)_mm512_permutexvar_ps(index, _mm512_castpd_ps(_mm512_set1_pd(both)));
#else
  (void)whole;
  return splat(*absmax);
#endif
}

// NF4 in whole blocks: a run's codes are multiplied first and scaled once. With `kReload`, which
// reads up to 3 bytes behind the run, every second shift is a load of the same words from the next
// byte on: shifts share the units of the products and loads don't.
template <int kCount, bool kReload>
LOWRANK_INLINE void multiply_codes(const FewRows& rows, int64_t at, const uint8_t* codes,
                                   bool whole, F32 absmax, F32 (&sums)[kCount]) {
  F32 run[kCount] = {};
#pragma GCC unroll 8
  for (int n = 0; n < SplitUnit::kCodeVectors; ++n) {
    const I32 words = kReload ? load_raw<I32>(codes + n / 2)
                              : SplitUnit::shifted(load_codes(codes, whole), n / 2 * 8);
    const I32 value = SplitUnit::code_values(n % 2 == 0 ? words : SplitUnit::shifted(words, 4));
#pragma GCC unroll 8
    for (int t = 0; t < kCount; ++t)
      run[t] =
          SplitUnit::add(run[t], rows.split + t * rows.stride + at + n * SplitUnit::kVector, value);
  }
  for (int t = 0; t < kCount; ++t) sums[t] = fma(run[t], absmax, sums[t]);
}

// What stands behind rows that are read side by side. It is asked for in the order in which it
// stands: rows asked for each by itself arrive at half the speed, and scales that nobody asks for
// come too late.
struct NextRows {
  const char *codes, *scales;
  int64_t scale_bytes;  // of a run
};

template <int kOutputs>
LOWRANK_INLINE NextRows behind_rows(const FewRows& rows, const Source& weight, int64_t first) {
  const int64_t bytes = kOutputs * rows.depth / 2 + ahead_bytes(rows);
  const int64_t element = first * weight.stride + 2 * bytes;
  const Weight& stored = *weight.weight;
  const void* scales = stored.absmax ? static_cast<const void*>(stored.absmax)
                                     : static_cast<const void*>(stored.absmax_codes);
  const int64_t scale = stored.absmax ? sizeof(float) : 1;
  return {static_cast<const char*>(weight.data) + element / 2,
          static_cast<const char*>(scales) + element / kNf4Block * scale,
          kCodeRun / kNf4Block * scale};
}

// kOutputs rows of the weight from `first` on, side by side: one's end overlaps the others' runs,
// and what is loaded of x serves all.
template <int kCount, int kOutputs>
LOWRANK_INLINE void dot_rows_nf4(const FewRows& rows, const Source& weight, int64_t first,
                                 float* to) {
  constexpr int64_t kBlocks = 64, kPart = kBlocks * kNf4Block;  // scales that are decoded at once
  const Weight& stored = *weight.weight;
  const uint8_t* codes[kOutputs];
  for (int o = 0; o < kOutputs; ++o)
    codes[o] = static_cast<const uint8_t*>(weight.data) + (first + o) * weight.stride / 2;
  // Behind a row's last run there is another row, but for the last.
  const int64_t readable = first + kOutputs < stored.rows ? rows.depth : rows.depth - kCodeRun;
  NextRows next = behind_rows<kOutputs>(rows, weight, first);
  const bool second_cache = asks_second_cache(rows);
  F32 sums[kOutputs][kCount] = {};
  for (int64_t part = 0; part < rows.depth; part += kPart) {
    const int64_t end = smaller(part + kPart, rows.depth), fast = smaller(end, readable);
    float decoded[kOutputs][kBlocks];
    const float* absmax[kOutputs];
    for (int o = 0; o < kOutputs; ++o) {
      const int64_t block = ((first + o) * weight.stride + part) / kNf4Block;
      absmax[o] = stored.absmax ? stored.absmax + block : decoded[o];
      for (int64_t i = 0; !stored.absmax && i < (end - part) / kNf4Block; ++i)
        decoded[o][i] = block_absmax(stored, block + i);
    }
    int64_t k = part;
    for (; k + kCodeRun <= fast; k += kCodeRun) {
      ask_for(next.scales, second_cache);
#pragma GCC unroll 4
      for (int o = 0; o < kOutputs; ++o) {
        ask_for(next.codes + o * kCodeRun / 2, second_cache);
        multiply_codes<kCount, true>(
            rows, k, codes[o] + static_cast<uint64_t>(k) / 2, true,
            lanes_absmax(absmax[o] + static_cast<uint64_t>(k - part) / kNf4Block, true), sums[o]);
      }
      next.codes += kOutputs * kCodeRun / 2;
      next.scales += kOutputs * next.scale_bytes;
    }
    for (; k < end; k += kCodeRun) {
      const bool whole = k + kCodeRun <= rows.depth;
#pragma GCC unroll 4
      for (int o = 0; o < kOutputs; ++o)
        multiply_codes<kCount, false>(rows, k, codes[o] + k / 2, whole,
                                      lanes_absmax(absmax[o] + (k - part) / kNf4Block, whole),
                                      sums[o]);
    }
  }
  for (int o = 0; o < kOutputs; ++o)
    for (int t = 0; t < kCount; ++t) to[t * kFewRowsStrip + o] = reduce_add(sums[o][t]);
}

// Rows are read side by side as long as that is little beside the first cache, in which they wait.
template <int kCount>
void dot_strip_nf4(const FewRows& rows, const Source& weight, int64_t first, int64_t count,
                   float* to) {
  constexpr int64_t kMostBytes = 8192;
  const int64_t fitting = kMostBytes / (rows.depth / 2);
  int64_t o = 0;
  if constexpr (kCount == 1)
    for (; fitting >= 4 && o + 4 <= count; o += 4)
      dot_rows_nf4<kCount, 4>(rows, weight, first + o, to + o);
  if constexpr (kCount <= 2)
    for (; fitting >= 2 && o + 2 <= count; o += 2)
      dot_rows_nf4<kCount, 2>(rows, weight, first + o, to + o);
  for (; o < count; ++o) dot_rows_nf4<kCount, 1>(rows, weight, first + o, to + o);
}
