// y = x W^T for a handful of rows, as in generation: bound by reading the weight once, so nothing
// is packed; each task takes some rows of the weight and converts them where they are read.

constexpr int64_t kRun = 512;

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
