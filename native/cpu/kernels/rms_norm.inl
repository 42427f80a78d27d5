// RMSNorm; the formulas stand in cpu/reference/rms_norm.h. Sums are f32 in vector lanes.
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

template <typename X>
void rms_norm_forward_rows(const RmsNormForward& op, int64_t begin, int64_t end) {
  const int64_t cols = op.x.cols;
  for (int64_t t = begin; t < end; ++t) {
    const X* x = row_of<X>(op.x, t);
    X* y = row_of<X>(op.y, t);
    const F32 squares = accumulate_vectors(cols, [&](int64_t i, int64_t n, F32 sum) {
      const F32 value = load_n(x + i, n);
      return fma(value, value, sum);
    });
    const float mean = reduce_add(squares) / static_cast<float>(cols);
    const float rstd = 1.0f / __builtin_sqrtf(mean + op.eps);
    if (op.rstd) op.rstd[t] = rstd;
    for_each_vector(cols, [&](int64_t i, int64_t n) {
      store_n(y + i, load_n(x + i, n) * rstd * load_n(op.weight + i, n), n);
    });
  }
}

void rms_norm_forward(CpuDevice& device, const RmsNormForward& op) {
  parallel_rows(device, op.x.rows, op.x.cols, [&](int64_t begin, int64_t end) {
    if (op.x.dtype == DType::kBF16)
      rms_norm_forward_rows<BF16>(op, begin, end);
    else
      rms_norm_forward_rows<float>(op, begin, end);
  });
}

template <typename X>
void rms_norm_backward_rows(const RmsNormBackward& op, int64_t begin, int64_t end) {
  const int64_t cols = op.x.cols;
  for (int64_t t = begin; t < end; ++t) {
    const X* x = row_of<X>(op.x, t);
    const X* d_y = row_of<X>(op.d_y, t);
    X* d_x = row_of<X>(op.d_x, t);
    const float rstd = op.rstd[t];
    const F32 products = accumulate_vectors(cols, [&](int64_t i, int64_t n, F32 sum) {
      return fma(load_n(d_y + i, n) * load_n(op.weight + i, n), load_n(x + i, n), sum);
    });
    const float mean = reduce_add(products) / static_cast<float>(cols);
    const F32 pull = splat(-rstd * rstd * mean);
    for_each_vector(cols, [&](int64_t i, int64_t n) {
      const F32 d_scaled = load_n(d_y + i, n) * load_n(op.weight + i, n);
      F32 gradient = fma(load_n(x + i, n), pull, d_scaled) * rstd;
      if (op.accumulate_d_x) gradient += load_n(d_x + i, n);
      store_n(d_x + i, gradient, n);
    });
  }
}

// Down the rows, so that the order of the sum is that of the rows.
template <typename X>
void rms_norm_weight_gradient(const RmsNormBackward& op, int64_t begin, int64_t end) {
  for_each_vector(end - begin, [&](int64_t offset, int64_t n) {
    const int64_t i = begin + offset;
    F32 sum{};
    for (int64_t t = 0; t < op.x.rows; ++t) {
      const F32 normalized = load_n(row_of<X>(op.x, t) + i, n) * op.rstd[t];
      sum = fma(load_n(row_of<X>(op.d_y, t) + i, n), normalized, sum);
    }
    store_n(op.d_weight + i, load_n(op.d_weight + i, n) + sum, n);
  });
}

void rms_norm_backward(CpuDevice& device, const RmsNormBackward& op) {
  const bool bf16 = op.x.dtype == DType::kBF16;
  // First, because d_x may be d_y.
  if (op.d_weight) {
    parallel_columns(device, op.x.cols, [&](int64_t begin, int64_t end) {
      if (bf16)
        rms_norm_weight_gradient<BF16>(op, begin, end);
      else
        rms_norm_weight_gradient<float>(op, begin, end);
    });
  }
  parallel_rows(device, op.x.rows, op.x.cols, [&](int64_t begin, int64_t end) {
    if (bf16)
      rms_norm_backward_rows<BF16>(op, begin, end);
    else
      rms_norm_backward_rows<float>(op, begin, end);
  });
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
