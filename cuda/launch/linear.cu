// The linear op with adapters as products: one small one per adapter (x A^T, or d_y B), then the
// large one, which adds every adapter's share to its own sums before it stores them.
#include <vector>

#include "cuda/launch/gemm.h"

namespace lowrank::cuda {
namespace {

Matrix rows_of(const Matrix& m, int64_t begin, int64_t end) {
  Matrix part = m;
  part.data =
      static_cast<char*>(m.data) + begin * m.stride * static_cast<int64_t>(dtype_size(m.dtype));
  part.rows = end - begin;
  return part;
}

// A and B of an adapter.
Operand down(const LoraSegment& s, int64_t in) {
  return operand(s.a, Storage::kF32, s.rank, in, in);
}
Operand up(const LoraSegment& s, int64_t out) {
  return operand(s.b, Storage::kF32, out, s.rank, s.rank);
}

// Rows [row_begin, row_end) of a matrix as an operand of its own; dropout counts the op's rows.
Operand segment_rows(const Matrix& x, const LoraSegment& s, bool with_dropout) {
  Operand o = operand(rows_of(x, s.row_begin, s.row_end));
  if (with_dropout) {
    o.dropout = dropout_of(s, x.cols);
    o.dropout.first_row = s.row_begin;
  }
  return o;
}

Adapter adapter_for(const LoraSegment& s, Operand rows, Operand factors) {
  Adapter adapter;
  adapter.a = rows;
  adapter.a.first = s.row_begin;
  adapter.a.last = s.row_end;
  adapter.a.values.cols = s.rank;
  adapter.b = factors;
  adapter.row_begin = s.row_begin;
  adapter.row_end = s.row_end;
  adapter.k = s.rank;
  return adapter;
}

void add_adapters(CudaDevice& device, Gemm& gemm, const std::vector<Adapter>& adapters) {
  gemm.adapter_count = static_cast<int32_t>(adapters.size());
  gemm.adapters = device.stage(adapters.data(), gemm.adapter_count);
  for (const Adapter& adapter : adapters)
    gemm.adapter_dropout = gemm.adapter_dropout || adapter.dropout.threshold != 0;
}

}  // namespace

// The backward pass keeps scale * d_y B of every row in f32.
size_t linear_workspace_bytes(const LinearShape& shape) {
  if (!shape.backward) return 0;
  return static_cast<size_t>(shape.tokens) * static_cast<size_t>(shape.max_rank) * sizeof(float);
}

void linear_forward(CudaDevice& device, const LinearForward& op) {
  const int64_t tokens = op.x.rows, in = op.weight.cols, out = op.weight.rows;
  std::vector<Adapter> adapters;
  for (int32_t i = 0; i < op.segment_count; ++i) {
    const LoraSegment& s = op.segments[i];
    Gemm product;
    product.m = s.row_end - s.row_begin;
    product.n = s.rank;
    product.k = in;
    product.a = segment_rows(op.x, s, true);
    product.b = down(s, in);
    set_output(product, rows_of(op.xa, s.row_begin, s.row_end).data, op.xa.dtype, op.xa.stride);
    run_gemm(device, product, op.x.dtype);
    Operand factors = up(s, out);
    factors.scale = s.scale;
    adapters.push_back(adapter_for(s, operand(op.xa), factors));
  }
  Gemm gemm;
  gemm.m = tokens;
  gemm.n = out;
  gemm.k = in;
  gemm.a = operand(op.x);
  gemm.b = operand(op.weight);
  gemm.bias = op.bias;
  if (op.residual) {
    gemm.residual = op.residual->data;
    gemm.residual_stride = op.residual->stride;
  }
  set_output(gemm, op.y.data, op.y.dtype, op.y.stride);
  add_adapters(device, gemm, adapters);
  run_gemm(device, gemm, op.x.dtype);
}

namespace {

// d_a += (scale d_y B)^T dropout(x);  d_b += scale d_y^T xa.
void adapter_gradients(CudaDevice& device, const LinearBackward& op, const LoraSegment& s,
                       const Matrix& dy_b) {
  const int64_t in = op.weight.cols, out = op.weight.rows, rows = s.row_end - s.row_begin;
  if (s.d_a) {
    Gemm gemm;
    gemm.m = s.rank;
    gemm.n = in;
    gemm.k = rows;
    gemm.a = transposed(segment_rows(dy_b, s, false));
    gemm.a.values.cols = s.rank;
    gemm.b = transposed(segment_rows(op.x, s, true));
    gemm.accumulate = true;
    set_output(gemm, s.d_a, DType::kF32, in);
    run_gemm(device, gemm, op.d_y.dtype);
  }
  if (s.d_b) {
    Gemm gemm;
    gemm.m = out;
    gemm.n = s.rank;
    gemm.k = rows;
    gemm.a = transposed(segment_rows(op.d_y, s, false));
    gemm.b = transposed(segment_rows(op.xa, s, false));
    gemm.b.values.cols = s.rank;
    gemm.scale = s.scale;
    gemm.accumulate = true;
    set_output(gemm, s.d_b, DType::kF32, s.rank);
    run_gemm(device, gemm, op.d_y.dtype);
  }
}

void input_gradient(CudaDevice& device, const LinearBackward& op, const Matrix& dy_b) {
  const int64_t in = op.weight.cols;
  std::vector<Adapter> adapters;
  for (int32_t i = 0; i < op.segment_count; ++i) {
    const LoraSegment& s = op.segments[i];
    adapters.push_back(adapter_for(s, operand(dy_b), transposed(down(s, in))));
    adapters.back().dropout = dropout_of(s, in);
  }
  Gemm gemm;
  gemm.m = op.d_y.rows;
  gemm.n = in;
  gemm.k = op.weight.rows;
  gemm.a = operand(op.d_y);
  gemm.b = transposed(operand(op.weight));
  gemm.accumulate = op.accumulate_d_x;
  set_output(gemm, op.d_x.data, op.d_x.dtype, op.d_x.stride);
  add_adapters(device, gemm, adapters);
  run_gemm(device, gemm, op.d_y.dtype);
}

}  // namespace

void linear_backward(CudaDevice& device, const LinearBackward& op) {
  const int64_t tokens = op.d_y.rows, in = op.weight.cols, out = op.weight.rows;
  int64_t max_rank = 0;
  for (int32_t i = 0; i < op.segment_count; ++i)
    max_rank = larger<int64_t>(max_rank, op.segments[i].rank);
  const Matrix dy_b{op.workspace, DType::kF32, tokens, max_rank, max_rank};
  for (int32_t i = 0; i < op.segment_count; ++i) {
    const LoraSegment& s = op.segments[i];
    Gemm product;
    product.m = s.row_end - s.row_begin;
    product.n = s.rank;
    product.k = out;
    product.a = segment_rows(op.d_y, s, false);
    product.b = transposed(up(s, out));
    product.scale = s.scale;
    set_output(product, rows_of(dy_b, s.row_begin, s.row_end).data, DType::kF32, max_rank);
    run_gemm(device, product, op.d_y.dtype);
    adapter_gradients(device, op, s, dy_b);
  }
  if (op.d_x.data) input_gradient(device, op, dy_b);
  if (op.d_weight) {
    Gemm gemm;
    gemm.m = out;
    gemm.n = in;
    gemm.k = tokens;
    gemm.a = transposed(operand(op.d_y));
    gemm.b = transposed(operand(op.x));
    gemm.accumulate = true;
    set_output(gemm, op.d_weight, DType::kF32, in);
    run_gemm(device, gemm, op.d_y.dtype);
  }
  if (op.d_bias) add_column_sums(device, op.d_y, op.d_bias);
}

}  // namespace lowrank::cuda
