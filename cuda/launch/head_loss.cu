// The fused head and loss over stretches of labelled rows: only one stretch's logits exist at a
// time, in the workspace, and become their own gradient there. The rows of x are packed beside them
// and give way to those of d_x, so that all products are plain ones.
#include "cuda/kernels/head_loss.cuh"

#include "cuda/dispatch.h"
#include "cuda/launch/gemm.h"

namespace lowrank::cuda {
namespace {

constexpr int64_t kMaxStretchBytes = int64_t{256} << 20;
constexpr int64_t kAlignment = 64;

// The workspace: logits of some rows, then as many rows of x.
struct Stretch {
  int64_t rows = 0, logit_bytes = 0, packed_bytes = 0;
};

// Whole tiles of labelled rows, at least one, as many as may be held at a time.
Stretch stretch_of(int64_t labelled, int64_t vocabulary, int64_t hidden, DType activation) {
  const int64_t row_bytes = hidden * static_cast<int64_t>(dtype_size(activation));
  const int64_t fitting = kMaxStretchBytes / larger<int64_t>(vocabulary * 4 + row_bytes, 1) /
                          MatrixTile::kM * MatrixTile::kM;
  Stretch s;
  s.rows = smaller(labelled, larger<int64_t>(fitting, MatrixTile::kM));
  s.logit_bytes = divide_up(s.rows * vocabulary * 4, kAlignment) * kAlignment;
  s.packed_bytes = s.rows * row_bytes;
  return s;
}

}  // namespace

size_t head_loss_workspace_bytes(const HeadLossShape& shape) {
  const Stretch s = stretch_of(shape.labelled, shape.vocabulary, shape.hidden, shape.activation);
  return static_cast<size_t>(s.logit_bytes + s.packed_bytes);
}

namespace {

// The rows from `begin` on, as many as `packed` has.
template <typename X>
void run_stretch(CudaDevice& device, const HeadLoss& op, int64_t begin, Matrix packed,
                 float* logits) {
  const int64_t rows = packed.rows, vocabulary = op.weight.rows, hidden = op.weight.cols;
  const DType activation = op.x.dtype;
  const int32_t* indices = op.rows + begin;
  launch<NoShared>(device.stream, take_rows_kernel<X>, chunk_grid(rows, hidden), kRowThreads,
                   view<X>(op.x), indices, view<X>(packed));
  Gemm gemm;
  gemm.m = rows;
  gemm.n = vocabulary;
  gemm.k = hidden;
  gemm.a = operand(packed);
  gemm.b = operand(op.weight);
  gemm.bias = op.bias;
  set_output(gemm, logits, DType::kF32, vocabulary);
  run_gemm(device, gemm, activation);

  // Products over bf16 round the gradient in any case; sums of a bias's gradient must not.
  const bool narrow = activation == DType::kBF16 && !op.d_bias;
  const bool backward = op.d_x.data || op.d_weight || op.d_bias;
  launch<SoftmaxShared>(device.stream, narrow ? softmax_kernel<BF16> : softmax_kernel<float>,
                        Grid{static_cast<unsigned>(rows)}, kSoftmaxThreads, logits, vocabulary,
                        op.targets + begin, backward ? op.weights + begin : nullptr,
                        op.logprob + begin, op.correct ? op.correct + begin : nullptr);
  const Matrix d_logits{logits, narrow ? DType::kBF16 : DType::kF32, rows, vocabulary,
                        narrow ? 2 * vocabulary : vocabulary};
  if (op.d_weight) {
    Gemm gradient;
    gradient.m = vocabulary;
    gradient.n = hidden;
    gradient.k = rows;
    gradient.a = transposed(operand(d_logits));
    gradient.b = transposed(operand(packed));
    gradient.accumulate = true;
    set_output(gradient, op.d_weight, DType::kF32, hidden);
    run_gemm(device, gradient, activation);
  }
  if (op.d_bias) add_column_sums(device, d_logits, op.d_bias);
  if (!op.d_x.data) return;
  Gemm back;
  back.m = rows;
  back.n = hidden;
  back.k = vocabulary;
  back.a = operand(d_logits);
  back.b = transposed(operand(op.weight));
  set_output(back, packed.data, activation, packed.stride);
  run_gemm(device, back, activation);
  launch<NoShared>(device.stream, put_rows_kernel<X>, chunk_grid(rows, hidden), kRowThreads,
                   view<X>(packed), indices, view<X>(op.d_x));
}

}  // namespace

void head_loss(CudaDevice& device, const HeadLoss& op) {
  const int64_t vocabulary = op.weight.rows, hidden = op.weight.cols;
  const Stretch stretch = stretch_of(op.count, vocabulary, hidden, op.x.dtype);
  auto* logits = static_cast<float*>(op.workspace);
  char* packed = static_cast<char*>(op.workspace) + stretch.logit_bytes;
  with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    if (op.d_x.data)
      launch<NoShared>(device.stream, zero_kernel<X>, element_grid(op.d_x.rows, op.d_x.cols),
                       kRowThreads, view<X>(op.d_x));
    for (int64_t begin = 0; begin < op.count; begin += stretch.rows) {
      const int64_t rows = smaller<int64_t>(stretch.rows, op.count - begin);
      run_stretch<X>(device, op, begin, {packed, op.x.dtype, rows, hidden, hidden}, logits);
    }
  });
}

}  // namespace lowrank::cuda
