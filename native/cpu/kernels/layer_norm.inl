// LayerNorm; the formulas stand in cpu/reference/layer_norm.h. Sums are f32 in vector lanes, the
// variance from distances to the mean.
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

template <typename X>
void layer_norm_forward_rows(const LayerNormForward& op, int64_t begin, int64_t end) {
  const int64_t cols = op.x.cols;
  const float count = static_cast<float>(cols);
  for (int64_t t = begin; t < end; ++t) {
    const X* x = row_of<X>(op.x, t);
    X* y = row_of<X>(op.y, t);
    const F32 sums = accumulate_vectors(
        cols, [&](int64_t i, int64_t n, F32 sum) { return sum + load_n(x + i, n); });
    const float mean = reduce_add(sums) / count;
    // Lanes behind the end hold zeros, whose distance to the mean mustn't count.
    const int64_t whole = cols / kLanes * kLanes;
    const F32 squares = accumulate_vectors(whole, [&](int64_t i, int64_t n, F32 sum) {
      const F32 distance = load_n(x + i, n) - mean;
      return fma(distance, distance, sum);
    });
    float rest = 0;
    for (int64_t i = whole; i < cols; ++i) {
      const float distance = load_part(x + i, 1)[0] - mean;
      rest += distance * distance;
    }
    const float rstd = 1.0f / __builtin_sqrtf((reduce_add(squares) + rest) / count + op.eps);
    if (op.mean) op.mean[t] = mean;
    if (op.rstd) op.rstd[t] = rstd;
    for_each_vector(cols, [&](int64_t i, int64_t n) {
      const F32 normalized = (load_n(x + i, n) - mean) * rstd;
      const F32 bias = op.bias ? load_n(op.bias + i, n) : F32{};
      store_n(y + i, fma(normalized, load_n(op.weight + i, n), bias), n);
    });
  }
}

void layer_norm_forward(CpuDevice& device, const LayerNormForward& op) {
  parallel_rows(device, op.x.rows, op.x.cols, [&](int64_t begin, int64_t end) {
    if (op.x.dtype == DType::kBF16)
      layer_norm_forward_rows<BF16>(op, begin, end);
    else
      layer_norm_forward_rows<float>(op, begin, end);
  });
}

template <typename X>
void layer_norm_backward_rows(const LayerNormBackward& op, int64_t begin, int64_t end) {
  const int64_t cols = op.x.cols;
  const float count = static_cast<float>(cols);
  for (int64_t t = begin; t < end; ++t) {
    const X* x = row_of<X>(op.x, t);
    const X* d_y = row_of<X>(op.d_y, t);
    X* d_x = row_of<X>(op.d_x, t);
    const float mean = op.mean[t], rstd = op.rstd[t];
    // Lanes behind the end hold zeros of d_y and weight, so they add nothing.
    const F32 sums = accumulate_vectors(cols, [&](int64_t i, int64_t n, F32 sum) {
      return fma(load_n(d_y + i, n), load_n(op.weight + i, n), sum);
    });
    const F32 products = accumulate_vectors(cols, [&](int64_t i, int64_t n, F32 sum) {
      const F32 normalized = (load_n(x + i, n) - mean) * rstd;
      return fma(load_n(d_y + i, n) * load_n(op.weight + i, n), normalized, sum);
    });
    const F32 shift = splat(reduce_add(sums) / count), pull = splat(-reduce_add(products) / count);
    for_each_vector(cols, [&](int64_t i, int64_t n) {
      const F32 normalized = (load_n(x + i, n) - mean) * rstd;
      const F32 centred = fma(load_n(d_y + i, n), load_n(op.weight + i, n), -shift);
      F32 gradient = fma(normalized, pull, centred) * rstd;
      if (op.accumulate_d_x) gradient += load_n(d_x + i, n);
      store_n(d_x + i, gradient, n);
    });
  }
}

// Down the rows, so that the order of the sums is that of the rows.
template <typename X>
void layer_norm_parameter_gradients(const LayerNormBackward& op, int64_t begin, int64_t end) {
  for_each_vector(end - begin, [&](int64_t offset, int64_t n) {
    const int64_t i = begin + offset;
    F32 weight{}, bias{};
    for (int64_t t = 0; t < op.x.rows; ++t) {
      const F32 d_y = load_n(row_of<X>(op.d_y, t) + i, n);
      const F32 normalized = (load_n(row_of<X>(op.x, t) + i, n) - op.mean[t]) * op.rstd[t];
      weight = fma(d_y, normalized, weight);
      bias += d_y;
    }
    if (op.d_weight) store_n(op.d_weight + i, load_n(op.d_weight + i, n) + weight, n);
    if (op.d_bias) store_n(op.d_bias + i, load_n(op.d_bias + i, n) + bias, n);
  });
}

void layer_norm_backward(CpuDevice& device, const LayerNormBackward& op) {
  const bool bf16 = op.x.dtype == DType::kBF16;
  // First, because d_x may be d_y.
  if (op.d_weight || op.d_bias) {
    parallel_columns(device, op.x.cols, [&](int64_t begin, int64_t end) {
      if (bf16)
        layer_norm_parameter_gradients<BF16>(op, begin, end);
      else
        layer_norm_parameter_gradients<float>(op, begin, end);
    });
  }
  parallel_rows(device, op.x.rows, op.x.cols, [&](int64_t begin, int64_t end) {
    if (bf16)
      layer_norm_backward_rows<BF16>(op, begin, end);
    else
      layer_norm_backward_rows<float>(op, begin, end);
  });
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
