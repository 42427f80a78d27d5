// y = x W^T for a handful of rows, as in generation: bound by reading the weight once, so nothing
// is packed; each task takes some rows of the weight and converts them where they are read.

constexpr int64_t kFewRows = 8;
constexpr int64_t kFewRowsStrip = 32;  // outputs of one task
constexpr int64_t kRun = 512;

// The rows of x a weight is multiplied with. `split` is x in the order in which the weight's
// storage is taken apart (split_x), `stride` elements a row.
struct FewRows {
  const float* x = nullptr;  // [rows, depth]
  const SplitUnit::X* split = nullptr;
  int64_t rows = 0;
  int64_t depth = 0;
  int64_t stride = 0;
  bool asks_second_cache = false;
};

// Each task reads its rows of the weight from the first byte to the last, with the memory asked for
// ahead: left alone, the prefetcher stays behind a loop that computes.
LOWRANK_INLINE void ask_ahead_of(const FewRows& rows, const void* at) {
  constexpr int64_t kFirstCache = 4096, kSecondCache = 8192;
  if (SplitUnit::kFeelsCaches && rows.asks_second_cache)
    __builtin_prefetch(static_cast<const char*>(at) + kSecondCache, 0, 2);
  else
    __builtin_prefetch(static_cast<const char*>(at) + kFirstCache, 0, 3);
}

LOWRANK_INLINE bool is_plain(const Source& weight) {
  return weight.scale == 1 && !weight.rows && weight.zero_before == 0;
}
LOWRANK_INLINE bool has_whole_blocks(const Source& weight, int64_t depth) {
  return weight.element == Element::kNF4 && depth % kNf4Block == 0;
}

// Elements of one row of `split`; 0: the weight is read element by element.
LOWRANK_INLINE int64_t split_stride(const Source& weight, int64_t depth) {
  if (!is_plain(weight)) return 0;
  if (weight.element == Element::kBF16) return round_up(depth, kPairRun);
  return has_whole_blocks(weight, depth) ? round_up(depth, kCodeRun) : 0;
}

// A run's vectors: vector n holds what stands n elements behind the first of each lane. kSwapped:
// of two elements the second comes first, as codes stand in a byte.
template <int kVectors, bool kSwapped>
void split_x(const float* x, int64_t depth, SplitUnit::X* to) {
  constexpr int64_t kSplit = kVectors * SplitUnit::kVector;
  for (int64_t i = 0; i < depth; i += kSplit, to += kSplit) {
    SplitUnit::X run[kSplit] = {};
    for (int64_t j = 0; j < smaller(kSplit, depth - i); ++j)
      run[j] = SplitUnit::from_float(x[i + j]);
    for (int64_t lane = 0; lane < SplitUnit::kVector; ++lane)
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n)
        to[n * SplitUnit::kVector + lane] = run[kVectors * lane + (kSwapped ? n ^ 1 : n)];
  }
}

// x[t] . w for the elements from `first` on, added to the chains of sums so far; to[t *
// kFewRowsStrip].
template <int kCount, int kChains, typename T>
LOWRANK_INLINE void finish_dots(const FewRows& rows, const T* w, int64_t first,
                                F32 (&sums)[kChains][kCount], float* to) {
  for (int64_t i = first; i < rows.depth; i += kLanes) {
    const int64_t n = smaller(kLanes, rows.depth - i);
    const F32 value = load_n(w + i, n);
    for (int t = 0; t < kCount; ++t)
      sums[0][t] = fma(load_n(rows.x + t * rows.depth + i, n), value, sums[0][t]);
  }
  for (int t = 0; t < kCount; ++t) {
    F32 sum = sums[0][t];
    for (int chain = 1; chain < kChains; ++chain) sum += sums[chain][t];
    to[t * kFewRowsStrip] = reduce_add(sum);
  }
}

template <int kCount, typename T>
LOWRANK_INLINE void dot_row(const FewRows& rows, const T* w, float* to) {
  constexpr int kChains = kCount <= 2 ? 4 : 2;
  F32 sums[kChains][kCount] = {};
  int64_t i = 0;
  for (; i + kChains * kLanes <= rows.depth; i += kChains * kLanes) {
#pragma GCC unroll 4
    for (int chain = 0; chain < kChains; ++chain) {
      const T* at = w + i + chain * kLanes;
      ask_ahead_of(rows, at);
      const F32 value = load(at);
#pragma GCC unroll 8
      for (int t = 0; t < kCount; ++t)
        sums[chain][t] =
            fma(load(rows.x + t * rows.depth + i + chain * kLanes), value, sums[chain][t]);
    }
  }
  finish_dots(rows, w, i, sums, to);
}

template <int kCount>
LOWRANK_INLINE void dot_row(const FewRows& rows, const BF16* w, float* to) {
  constexpr int kVectors = SplitUnit::kPairVectors, kRuns = (kCount <= 2 ? 4 : 2) / kVectors;
  F32 sums[kVectors * kRuns][kCount] = {};
  int64_t i = 0;
  for (; i + kRuns * kPairRun <= rows.depth; i += kRuns * kPairRun) {
#pragma GCC unroll 4
    for (int run = 0; run < kRuns; ++run) {
      const int64_t at = i + run * kPairRun;
      ask_ahead_of(rows, w + at);
      const I32 words = load_raw<I32>(w + at);
#pragma GCC unroll 8
      for (int t = 0; t < kCount; ++t) {
        const SplitUnit::X* x = rows.split + t * rows.stride + at;
#pragma GCC unroll 2
        for (int n = 0; n < kVectors; ++n) {
          F32& sum = sums[kVectors * run + n][t];
          sum = SplitUnit::add(sum, x + n * SplitUnit::kVector, SplitUnit::pair_values(words, n));
        }
      }
    }
  }
  finish_dots(rows, w, i, sums, to);
}

template <int kCount, typename T>
void dot_strip(const FewRows& rows, const Source& weight, int64_t first, int64_t count, float* to) {
  const T* w = static_cast<const T*>(weight.data) + first * weight.stride;
  for (int64_t o = 0; o < count; ++o) dot_row<kCount>(rows, w + o * weight.stride, to + o);
}

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
    for (; k + kCodeRun <= fast; k += kCodeRun)
#pragma GCC unroll 4
      for (int o = 0; o < kOutputs; ++o) {
        const uint8_t* run = codes[o] + static_cast<uint64_t>(k) / 2;
        ask_ahead_of(rows, run);
        multiply_codes<kCount, true>(
            rows, k, run, true,
            lanes_absmax(absmax[o] + static_cast<uint64_t>(k - part) / kNf4Block, true), sums[o]);
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

template <int kCount>
void dot_strip_nf4(const FewRows& rows, const Source& weight, int64_t first, int64_t count,
                   float* to) {
  int64_t o = 0;
  if constexpr (kCount == 1)
    for (; o + 4 <= count; o += 4) dot_rows_nf4<kCount, 4>(rows, weight, first + o, to + o);
  if constexpr (kCount <= 2)
    for (; o + 2 <= count; o += 2) dot_rows_nf4<kCount, 2>(rows, weight, first + o, to + o);
  for (; o < count; ++o) dot_rows_nf4<kCount, 1>(rows, weight, first + o, to + o);
}

// Any other storage: run by run through a buffer.
template <int kCount>
void dot_strip_decoded(const FewRows& rows, const Source& weight, int64_t first, int64_t count,
                       float* to) {
  float run[kRun];
  for (int64_t o = 0; o < count; ++o) {
    F32 sums[kCount] = {};
    for (int64_t k = 0; k < rows.depth; k += kRun) {
      const int64_t length = smaller(kRun, rows.depth - k);
      read_run(weight, first + o, k, length, run);
      for_each_vector(length, [&](int64_t i, int64_t n) {
        const F32 value = load_n(run + i, n);
        for (int t = 0; t < kCount; ++t)
          sums[t] = fma(load_n(rows.x + t * rows.depth + k + i, n), value, sums[t]);
      });
    }
    for (int t = 0; t < kCount; ++t) to[t * kFewRowsStrip + o] = reduce_add(sums[t]);
  }
}

template <int kCount>
void few_rows_strip(const FewRows& rows, const Source& weight, int64_t first, int64_t count,
                    float* to) {
  if (rows.split && weight.element == Element::kNF4)
    dot_strip_nf4<kCount>(rows, weight, first, count, to);
  else if (rows.split && weight.element == Element::kBF16)
    dot_strip<kCount, BF16>(rows, weight, first, count, to);
  else if (is_plain(weight) && weight.element == Element::kF32)
    dot_strip<kCount, float>(rows, weight, first, count, to);
  else if (is_plain(weight) && weight.element == Element::kF16)
    dot_strip<kCount, F16>(rows, weight, first, count, to);
  else
    dot_strip_decoded<kCount>(rows, weight, first, count, to);
}

// `extra` (rows 0: none) adds a second product to every row: the adapter's update.
void multiply_few_rows(CpuDevice& device, const FewRows& rows, const Source& weight, int64_t cols,
                       const FewRows& extra, const Source& extra_weight, const Epilogue& epilogue) {
  using Strip = void (*)(const FewRows&, const Source&, int64_t, int64_t, float*);
  static constexpr Strip kStrips[] = {few_rows_strip<1>, few_rows_strip<2>, few_rows_strip<3>,
                                      few_rows_strip<4>, few_rows_strip<5>, few_rows_strip<6>,
                                      few_rows_strip<7>, few_rows_strip<8>};
  const Strip strip = kStrips[rows.rows - 1];
  device.pool.parallel_for((cols + kFewRowsStrip - 1) / kFewRowsStrip, [&](int64_t task, int) {
    const int64_t first = task * kFewRowsStrip;
    const int64_t count = smaller(kFewRowsStrip, cols - first);
    float sums[kFewRows * kFewRowsStrip], more[kFewRows * kFewRowsStrip];
    strip(rows, weight, first, count, sums);
    if (extra.rows > 0) {
      strip(extra, extra_weight, first, count, more);
      for (int64_t t = 0; t < rows.rows; ++t)
        for (int64_t o = 0; o < count; ++o)
          sums[t * kFewRowsStrip + o] += more[t * kFewRowsStrip + o];
    }
    for (int64_t t = 0; t < rows.rows; ++t)
      finish_tile<0>(epilogue, t, first, 1, count, sums + t * kFewRowsStrip, 0);
  });
}
