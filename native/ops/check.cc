#include "ops/check.h"

#include <cstdio>

#include "core/error.h"

namespace lowrank::ops {
namespace {

std::string shape_text(int64_t rows, int64_t cols) {
  char text[64];
  std::snprintf(text, sizeof text, "[%lld, %lld]", static_cast<long long>(rows),
                static_cast<long long>(cols));
  return text;
}

// Matrices are the same when they start, step and end at the same places.
bool same_matrix(const Matrix& a, const Matrix& b) {
  return a.data == b.data && a.dtype == b.dtype && a.rows == b.rows && a.cols == b.cols &&
         (a.stride == b.stride || a.rows <= 1);
}

bool overlap(const Matrix& a, const Matrix& b) {
  if (!a.data || !b.data || a.rows == 0 || b.rows == 0 || a.cols == 0 || b.cols == 0) return false;
  const auto size_a = static_cast<int64_t>(dtype_size(a.dtype));
  const auto size_b = static_cast<int64_t>(dtype_size(b.dtype));
  const auto begin_a = reinterpret_cast<intptr_t>(a.data);
  const auto begin_b = reinterpret_cast<intptr_t>(b.data);
  const intptr_t end_a = begin_a + ((a.rows - 1) * a.stride + a.cols) * size_a;
  const intptr_t end_b = begin_b + ((b.rows - 1) * b.stride + b.cols) * size_b;
  if (end_a <= begin_b || end_b <= begin_a) return false;
  const intptr_t step = a.stride * size_a;
  if (step != b.stride * size_b) return true;
  // Rows interleave: compare where the columns lie within one step.
  intptr_t offset = (begin_b - begin_a) % step;
  if (offset < 0) offset += step;
  return offset < a.cols * size_a || offset + b.cols * size_b > step;
}

}  // namespace

void fail(const char* op, const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, std::string("[") + op + "] " + message);
}

void check_pointer(const char* op, const char* name, const void* pointer, int64_t count) {
  if (!pointer && count > 0) fail(op, std::string(name) + " is null");
}

void check_matrix(const char* op, const char* name, const Matrix& matrix, int64_t rows,
                  int64_t cols) {
  if (rows < 0 || cols < 0)
    fail(op, std::string(name) + " has the negative shape " + shape_text(rows, cols));
  if (matrix.rows != rows || matrix.cols != cols)
    fail(op, std::string(name) + " is " + shape_text(matrix.rows, matrix.cols) + ", expected " +
                 shape_text(rows, cols));
  if (matrix.dtype != DType::kF32 && matrix.dtype != DType::kBF16)
    fail(op, std::string(name) + " is " + dtype_name(matrix.dtype) + ", expected f32 or bf16");
  if (rows > 1 && matrix.stride < cols)
    fail(op, std::string(name) + " has stride " + std::to_string(matrix.stride) + " with " +
                 std::to_string(cols) + " columns");
  check_pointer(op, name, matrix.data, rows * cols);
}

void check_matrix(const char* op, const char* name, const Matrix& matrix, int64_t rows,
                  int64_t cols, DType dtype) {
  check_matrix(op, name, matrix, rows, cols);
  if (matrix.dtype != dtype)
    fail(op,
         std::string(name) + " is " + dtype_name(matrix.dtype) + ", expected " + dtype_name(dtype));
}

void check_weight(const char* op, const char* name, const Weight& weight, int64_t rows,
                  int64_t cols) {
  if (weight.rows != rows || weight.cols != cols || rows < 0 || cols < 0)
    fail(op, std::string(name) + " is " + shape_text(weight.rows, weight.cols) + ", expected " +
                 shape_text(rows, cols));
  check_pointer(op, name, weight.data, rows * cols);
  switch (weight.storage) {
    case Storage::kF32:
    case Storage::kBF16:
    case Storage::kF16:
      return;
    case Storage::kNF4:
      if (weight.absmax) return;
      if (!weight.absmax_codes || !weight.nested_absmax || !weight.nested_code)
        fail(op, std::string(name) +
                     " is nf4 and lacks absmax, or absmax_codes, nested_absmax and nested_code");
      return;
    case Storage::kInt8:
      if (!weight.row_scale) fail(op, std::string(name) + " is int8 and lacks row_scale");
      return;
  }
  fail(op, std::string(name) + " has an unknown storage type");
}

void check_disjoint(const char* op, const char* name_a, const Matrix& a, const char* name_b,
                    const Matrix& b) {
  if (overlap(a, b)) fail(op, std::string(name_a) + " overlaps " + name_b);
}

void check_disjoint_or_same(const char* op, const char* name_a, const Matrix& a, const char* name_b,
                            const Matrix& b) {
  if (!same_matrix(a, b)) check_disjoint(op, name_a, a, name_b, b);
}

void check_workspace(const char* op, const void* workspace, size_t bytes, size_t needed) {
  if (needed == 0) return;
  if (!workspace || bytes < needed)
    fail(op, "workspace has " + std::to_string(workspace ? bytes : 0) + " bytes, " +
                 std::to_string(needed) + " are needed");
  require(reinterpret_cast<uintptr_t>(workspace) % 64 == 0, op,
          "workspace isn't aligned to 64 bytes");
}

void check_indices(const char* op, const char* name, const Device& device, const int32_t* indices,
                   int64_t count, int64_t bound) {
  check_pointer(op, name, indices, count);
  if (!device.backend().host_memory) return;
  for (int64_t i = 0; i < count; ++i) {
    if (indices[i] < 0 || indices[i] >= bound)
      fail(op, std::string(name) + "[" + std::to_string(i) + "] is " + std::to_string(indices[i]) +
                   ", outside [0, " + std::to_string(bound) + ")");
  }
}

}  // namespace lowrank::ops
