// y = x W^T for a handful of rows, as in generation: bound by reading the weight once, so nothing
// is packed; each task takes some rows of the weight.

constexpr int64_t kFewRows = 8;
constexpr int64_t kFewRowsStrip = 32;  // outputs of one task
constexpr int64_t kRun = 512;

// sums[t] += x[t] . w over one run.
template <int kCount>
LOWRANK_INLINE void dot_run(const float* x, int64_t x_stride, const float* w, int64_t count,
                            F32* sums) {
  for_each_vector(count, [&](int64_t i, int64_t n) {
    const F32 value = load_n(w + i, n);
#pragma GCC unroll 8
    for (int t = 0; t < kCount; ++t) sums[t] = fma(load_n(x + t * x_stride + i, n), value, sums[t]);
  });
}

template <int kCount>
void few_rows_strip(const float* x, int64_t depth, const Source& weight, int64_t first,
                    int64_t count, float* to) {
  float run[kRun];
  for (int64_t o = 0; o < count; ++o) {
    F32 sums[kCount] = {};
    for (int64_t k = 0; k < depth; k += kRun) {
      const int64_t n = smaller(kRun, depth - k);
      read_run(weight, first + o, k, n, run);
      dot_run<kCount>(x + k, depth, run, n, sums);
    }
    for (int t = 0; t < kCount; ++t) to[t * kFewRowsStrip + o] = reduce_add(sums[t]);
  }
}

// x [rows, depth] as f32; rows <= kFewRows. `extra` (may be null) adds a second product of depth
// `extra_depth` to every row: the adapter's update.
void multiply_few_rows(CpuDevice& device, const float* x, int64_t rows, int64_t depth,
                       const Source& weight, int64_t cols, const float* extra, int64_t extra_depth,
                       const Source& extra_weight, const Epilogue& epilogue) {
  using Strip = void (*)(const float*, int64_t, const Source&, int64_t, int64_t, float*);
  static constexpr Strip kStrips[] = {few_rows_strip<1>, few_rows_strip<2>, few_rows_strip<3>,
                                      few_rows_strip<4>, few_rows_strip<5>, few_rows_strip<6>,
                                      few_rows_strip<7>, few_rows_strip<8>};
  const Strip strip = kStrips[rows - 1];
  device.pool.parallel_for((cols + kFewRowsStrip - 1) / kFewRowsStrip, [&](int64_t task, int) {
    const int64_t first = task * kFewRowsStrip;
    const int64_t count = smaller(kFewRowsStrip, cols - first);
    float sums[kFewRows * kFewRowsStrip], more[kFewRows * kFewRowsStrip];
    strip(x, depth, weight, first, count, sums);
    if (extra) {
      strip(extra, extra_depth, extra_weight, first, count, more);
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t o = 0; o < count; ++o)
          sums[t * kFewRowsStrip + o] += more[t * kFewRowsStrip + o];
    }
    for (int64_t t = 0; t < rows; ++t) finish(epilogue, t, first, count, sums + t * kFewRowsStrip);
  });
}
