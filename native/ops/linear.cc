#include "ops/linear.h"

#include <algorithm>

#include "ops/check.h"

namespace lowrank::ops {
namespace {

void check_segments(const char* op, const LoraSegment* segments, int32_t count, int64_t tokens,
                    const Matrix& xa, DType dtype) {
  if (count == 0) return;
  require(count > 0, op, "segment_count is negative");
  check_pointer(op, "segments", segments);
  int64_t end = 0, max_rank = 0;
  for (int32_t i = 0; i < count; ++i) {
    const LoraSegment& segment = segments[i];
    require(segment.row_begin >= end && segment.row_end >= segment.row_begin, op,
            "segments overlap or don't ascend");
    end = segment.row_end;
    require(segment.rank > 0, op, "a segment's rank isn't positive");
    max_rank = std::max<int64_t>(max_rank, segment.rank);
    check_pointer(op, "segment.a", segment.a);
    check_pointer(op, "segment.b", segment.b);
    require(segment.dropout >= 0 && segment.dropout < 1, op, "dropout is outside [0, 1)");
  }
  require(end <= tokens, op, "a segment ends behind the last row");
  require(xa.cols >= max_rank, op, "xa has fewer columns than the largest rank");
  check_matrix(op, "xa", xa, tokens, xa.cols, dtype);
}

LinearShape shape_of(int64_t tokens, const Weight& weight, const LoraSegment* segments,
                     int32_t count, DType activation) {
  LinearShape shape;
  shape.tokens = tokens;
  shape.in = weight.cols;
  shape.out = weight.rows;
  shape.segment_count = count;
  shape.activation = activation;
  shape.storage = weight.storage;
  for (int32_t i = 0; i < count; ++i) {
    shape.max_rank = std::max(shape.max_rank, segments[i].rank);
    shape.dropout = shape.dropout || segments[i].dropout > 0;
  }
  return shape;
}

}  // namespace

size_t linear_workspace_bytes(const Device& device, const LinearShape& shape) {
  return device.backend().linear_workspace_bytes(device.handle(), &shape);
}

void linear_forward(const Device& device, const LinearForward& op) {
  const char* name = "linear_forward";
  const int64_t tokens = op.x.rows, in = op.weight.cols, out = op.weight.rows;
  check_matrix(name, "x", op.x, tokens, in);
  check_matrix(name, "y", op.y, tokens, out);
  require(op.y.dtype == op.x.dtype || op.y.dtype == DType::kF32, name, "y is bf16 while x is f32");
  check_weight(name, "weight", op.weight, out, in);
  check_disjoint(name, "y", op.y, "x", op.x);
  if (op.residual) {
    check_matrix(name, "residual", *op.residual, tokens, out, op.y.dtype);
    check_disjoint_or_same(name, "y", op.y, "residual", *op.residual);
  }
  check_segments(name, op.segments, op.segment_count, tokens, op.xa, op.x.dtype);
  if (op.segment_count > 0) {
    check_disjoint(name, "xa", op.xa, "x", op.x);
    check_disjoint(name, "xa", op.xa, "y", op.y);
  }
  const LinearShape shape = shape_of(tokens, op.weight, op.segments, op.segment_count, op.x.dtype);
  check_workspace(name, op.workspace, op.workspace_bytes, linear_workspace_bytes(device, shape));
  device.check(device.backend().linear_forward(device.handle(), &op), name);
}

void linear_backward(const Device& device, const LinearBackward& op) {
  const char* name = "linear_backward";
  const int64_t tokens = op.d_y.rows, in = op.weight.cols, out = op.weight.rows;
  const DType dtype = op.d_y.dtype;
  check_matrix(name, "d_y", op.d_y, tokens, out);
  check_weight(name, "weight", op.weight, out, in);
  check_segments(name, op.segments, op.segment_count, tokens, op.xa, dtype);
  bool needs_x = op.d_weight != nullptr;
  for (int32_t i = 0; i < op.segment_count; ++i) needs_x = needs_x || op.segments[i].d_a;
  if (needs_x || op.x.data) check_matrix(name, "x", op.x, tokens, in, dtype);
  if (op.d_x.data) {
    check_matrix(name, "d_x", op.d_x, tokens, in, dtype);
    check_disjoint(name, "d_x", op.d_x, "d_y", op.d_y);
    if (op.x.data) check_disjoint(name, "d_x", op.d_x, "x", op.x);
    if (op.segment_count > 0) check_disjoint(name, "d_x", op.d_x, "xa", op.xa);
  }
  LinearShape shape = shape_of(tokens, op.weight, op.segments, op.segment_count, dtype);
  shape.backward = true;
  check_workspace(name, op.workspace, op.workspace_bytes, linear_workspace_bytes(device, shape));
  device.check(device.backend().linear_backward(device.handle(), &op), name);
}

}  // namespace lowrank::ops
