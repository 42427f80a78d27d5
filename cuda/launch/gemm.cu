#include "cuda/launch/gemm.h"

#include "cuda/dispatch.h"
#include "cuda/kernels/columns.cuh"

namespace lowrank::cuda {

Operand operand(const void* data, Storage storage, int64_t rows, int64_t cols, int64_t stride) {
  Operand o;
  o.values.data = data;
  o.values.storage = storage;
  o.values.rows = rows;
  o.values.cols = cols;
  o.stride = stride;
  o.last = rows;
  return o;
}

Operand operand(const Matrix& matrix) {
  return operand(matrix.data, matrix.dtype == DType::kBF16 ? Storage::kBF16 : Storage::kF32,
                 matrix.rows, matrix.cols, matrix.stride);
}

Operand operand(const Weight& weight) {
  Operand o;
  o.values = weight;
  o.stride = weight.cols;
  o.last = weight.rows;
  return o;
}

Operand transposed(Operand operand) {
  operand.k_is_row = true;
  return operand;
}

Dropout dropout_of(const LoraSegment& segment, int64_t cols) {
  Dropout d;
  if (segment.dropout <= 0) return d;
  d.key = segment.dropout_key;
  d.threshold = dropout_threshold(segment.dropout);
  d.keep_scale = static_cast<float>(1.0 / (1.0 - static_cast<double>(segment.dropout)));
  d.cols = cols;
  return d;
}

void set_output(Gemm& gemm, void* data, DType dtype, int64_t stride) {
  gemm.c = data;
  gemm.c_dtype = dtype;
  gemm.c_stride = stride;
}

void run_gemm(CudaDevice& device, const Gemm& gemm, DType activation) {
  const Grid grid{static_cast<unsigned>(divide_up(gemm.m, kTileM)),
                  static_cast<unsigned>(divide_up(gemm.n, kTileN))};
  with_activation(activation, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    launch<GemmShared<T>>(device.stream, gemm_kernel<T>, grid, kGemmThreads, gemm, device.tables);
  });
}

void add_column_sums(CudaDevice& device, const Matrix& x, float* total) {
  with_activation(x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<ColumnShared>(device.stream, column_sum_kernel<X>,
                         Grid{static_cast<unsigned>(divide_up(x.cols, kWarp))},
                         kWarp * kColumnGroups, view<X>(x), total);
  });
}

}  // namespace lowrank::cuda
