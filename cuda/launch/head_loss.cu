// The fused head and loss over stretches of labelled rows: only one stretch's logits exist at a
// time, in the workspace, and become their own gradient there.
#include "cuda/kernels/head_loss.cuh"

#include "cuda/dispatch.h"
#include "cuda/launch/gemm.h"

namespace lowrank::cuda {
namespace {

constexpr int64_t kMaxLogitBytes = int64_t{256} << 20;

// Labelled rows per stretch: whole tiles, at least one, as many as the workspace may hold.
int64_t stretch_rows(int64_t labelled, int64_t vocabulary) {
  const int64_t fitting =
      kMaxLogitBytes / 4 / larger<int64_t>(vocabulary, 1) / MatrixTile::kM * MatrixTile::kM;
  return smaller(labelled, larger<int64_t>(fitting, MatrixTile::kM));
}

}  // namespace

size_t head_loss_workspace_bytes(const HeadLossShape& shape) {
  return static_cast<size_t>(stretch_rows(shape.labelled, shape.vocabulary)) *
         static_cast<size_t>(shape.vocabulary) * sizeof(float);
}

void head_loss(CudaDevice& device, const HeadLoss& op) {
  const int64_t vocabulary = op.weight.rows, hidden = op.weight.cols;
  const bool backward = op.d_x.data || op.d_weight || op.d_bias;
  const DType activation = op.x.dtype;
  if (op.d_x.data)
    with_activation(activation, [&](auto tag) {
      using X = typename decltype(tag)::Type;
      launch<NoShared>(device.stream, zero_kernel<X>, element_grid(op.d_x.rows, op.d_x.cols),
                       kRowThreads, view<X>(op.d_x));
    });
  auto* logits = static_cast<float*>(op.workspace);
  const int64_t stretch = stretch_rows(op.count, vocabulary);
  for (int64_t begin = 0; begin < op.count; begin += stretch) {
    const int64_t rows = smaller<int64_t>(stretch, op.count - begin);
    const Matrix d_logits{logits, DType::kF32, rows, vocabulary, vocabulary};
    Operand x = operand(op.x);
    x.gather = op.rows + begin;
    x.last = x.values.rows = rows;
    Gemm gemm;
    gemm.m = rows;
    gemm.n = vocabulary;
    gemm.k = hidden;
    gemm.a = x;
    gemm.b = operand(op.weight);
    gemm.bias = op.bias;
    set_output(gemm, logits, DType::kF32, vocabulary);
    run_gemm(device, gemm, activation);
    launch<SoftmaxShared>(device.stream, softmax_kernel, Grid{static_cast<unsigned>(rows)},
                          kSoftmaxThreads, logits, vocabulary, op.targets + begin,
                          backward ? op.weights + begin : nullptr, op.logprob + begin,
                          op.correct ? op.correct + begin : nullptr);
    if (op.d_x.data) {
      Gemm back;
      back.m = rows;
      back.n = hidden;
      back.k = vocabulary;
      back.a = operand(d_logits);
      back.b = transposed(operand(op.weight));
      back.scatter = op.rows + begin;
      set_output(back, op.d_x.data, op.d_x.dtype, op.d_x.stride);
      run_gemm(device, back, activation);
    }
    if (op.d_weight) {
      Gemm gradient;
      gradient.m = vocabulary;
      gradient.n = hidden;
      gradient.k = rows;
      gradient.a = transposed(operand(d_logits));
      gradient.b = transposed(x);
      gradient.accumulate = true;
      set_output(gradient, op.d_weight, DType::kF32, hidden);
      run_gemm(device, gradient, activation);
    }
    if (op.d_bias) add_column_sums(device, d_logits, op.d_bias);
  }
}

}  // namespace lowrank::cuda
