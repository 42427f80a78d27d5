// y = x W^T for a handful of rows, as in generation: bound by reading the weight once, so nothing
// is packed; each task takes some rows of the weight and converts them where they are read.

constexpr int64_t kFewRows = 8;
constexpr int64_t kFewRowsStrip = 32;  // outputs of one task
constexpr int64_t kRun = 512;

// The rows of x a weight is multiplied with. For NF4, `split` has each run of 2 * kLanes elements
// as its even ones, then its odd ones: the high and the low halves of the codes' bytes.
struct FewRows {
  const float* x = nullptr;  // [rows, depth]
  const float* split = nullptr;
  int64_t rows = 0;
  int64_t depth = 0;
};

LOWRANK_INLINE bool has_whole_blocks(const Source& weight, int64_t depth) {
  return weight.element == Element::kNF4 && depth % kNf4Block == 0;
}

LOWRANK_INLINE void split_pairs(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += 2 * kLanes)
    for (int64_t j = 0; j < kLanes; ++j) {
      to[i + j] = from[i + 2 * j];
      to[i + kLanes + j] = from[i + 2 * j + 1];
    }
}

// to[t * kFewRowsStrip + o] = x[t] . w[o] for kOutputs rows of the weight at once, each with two
// chains of sums.
template <int kCount, int kOutputs, typename T>
LOWRANK_INLINE void dot_outputs(const FewRows& rows, const T* w, int64_t stride, float* to) {
  F32 sums[2][kOutputs][kCount] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= rows.depth; i += 2 * kLanes) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
#pragma GCC unroll 4
      for (int o = 0; o < kOutputs; ++o) {
        const F32 value = load(w + o * stride + i + half * kLanes);
#pragma GCC unroll 8
        for (int t = 0; t < kCount; ++t)
          sums[half][o][t] = fma(load(rows.x + t * rows.depth + i + half * kLanes), value,
                                 sums[half][o][t]);
      }
    }
  }
  for (; i < rows.depth; i += kLanes) {
    const int64_t n = smaller(kLanes, rows.depth - i);
    for (int o = 0; o < kOutputs; ++o)
      for (int t = 0; t < kCount; ++t)
        sums[0][o][t] = fma(load_n(rows.x + t * rows.depth + i, n), load_n(w + o * stride + i, n),
                            sums[0][o][t]);
  }
  for (int o = 0; o < kOutputs; ++o)
    for (int t = 0; t < kCount; ++t)
      to[t * kFewRowsStrip + o] = reduce_add(sums[0][o][t] + sums[1][o][t]);
}

template <int kCount, typename T>
void dot_strip(const FewRows& rows, const Source& weight, int64_t first, int64_t count, float* to) {
  constexpr int kOutputs = kCount <= 2 ? 4 : kCount <= 4 ? 2 : 1;
  const T* w = static_cast<const T*>(weight.data) + first * weight.stride;
  int64_t o = 0;
  for (; o + kOutputs <= count; o += kOutputs)
    dot_outputs<kCount, kOutputs>(rows, w + o * weight.stride, weight.stride, to + o);
  for (; o < count; ++o) dot_outputs<kCount, 1>(rows, w + o * weight.stride, weight.stride, to + o);
}

// NF4 in whole blocks: a block's codes are multiplied first and scaled once.
template <int kCount>
void dot_strip_nf4(const FewRows& rows, const Source& weight, int64_t first, int64_t count,
                   float* to) {
  for (int64_t o = 0; o < count; ++o) {
    const int64_t at = (first + o) * weight.stride;
    const uint8_t* codes = static_cast<const uint8_t*>(weight.data) + at / 2;
    F32 sums[kCount] = {};
    for (int64_t k = 0; k < rows.depth; k += kNf4Block) {
      const F32 absmax = splat(block_absmax(*weight.weight, (at + k) / kNf4Block));
      F32 block[kCount] = {};
#pragma GCC unroll 8
      for (int64_t i = 0; i < kNf4Block; i += 2 * kLanes) {
        const I32 pairs = load_bytes(codes + (k + i) / 2);
        const F32 even = code_values(pairs >> 4), odd = code_values(pairs & 15);
#pragma GCC unroll 8
        for (int t = 0; t < kCount; ++t) {
          const float* x = rows.split + t * rows.depth + k + i;
          block[t] = fma(load(x), even, block[t]);
          block[t] = fma(load(x + kLanes), odd, block[t]);
        }
      }
      for (int t = 0; t < kCount; ++t) sums[t] = fma(block[t], absmax, sums[t]);
    }
    for (int t = 0; t < kCount; ++t) to[t * kFewRowsStrip + o] = reduce_add(sums[t]);
  }
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
  const bool plain = weight.scale == 1 && !weight.rows && weight.zero_before == 0;
  if (plain && weight.element == Element::kF32)
    dot_strip<kCount, float>(rows, weight, first, count, to);
  else if (plain && weight.element == Element::kBF16)
    dot_strip<kCount, BF16>(rows, weight, first, count, to);
  else if (plain && weight.element == Element::kF16)
    dot_strip<kCount, F16>(rows, weight, first, count, to);
  else if (plain && rows.split && has_whole_blocks(weight, rows.depth))
    dot_strip_nf4<kCount>(rows, weight, first, count, to);
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
      finish(epilogue, t, first, count, sums + t * kFewRowsStrip);
  });
}
