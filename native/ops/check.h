// Argument checks shared by the op wrappers. Each throws Error{kInvalidArgument} with a message
// that begins with "[op]"; none allocates when the arguments are right.
#pragma once

#include <string>

#include "backend/backend.h"
#include "backend/device.h"

namespace lowrank::ops {

[[noreturn]] void fail(const char* op, const std::string& message);

inline void require(bool condition, const char* op, const char* message) {
  if (!condition) fail(op, message);
}

// Non-null unless the element count is 0.
void check_pointer(const char* op, const char* name, const void* pointer, int64_t count = 1);

// An f32 or bf16 matrix of this shape with stride >= cols.
void check_matrix(const char* op, const char* name, const Matrix& matrix, int64_t rows,
                  int64_t cols);

// As check_matrix, and of type `dtype`.
void check_matrix(const char* op, const char* name, const Matrix& matrix, int64_t rows,
                  int64_t cols, DType dtype);

// A weight [rows, cols] that carries what its storage needs (absmax, row scales).
void check_weight(const char* op, const char* name, const Weight& weight, int64_t rows,
                  int64_t cols);

// No element of `a` is an element of `b`. Columns of one wider matrix are disjoint.
void check_disjoint(const char* op, const char* name_a, const Matrix& a, const char* name_b,
                    const Matrix& b);

// As check_disjoint, but `a` and `b` may be the very same matrix.
void check_disjoint_or_same(const char* op, const char* name_a, const Matrix& a, const char* name_b,
                            const Matrix& b);

// Workspace that is large enough and 64-byte aligned.
void check_workspace(const char* op, const void* workspace, size_t bytes, size_t needed);

// Every index lies in [0, bound). Only where the host can read device memory.
void check_indices(const char* op, const char* name, const Device& device, const int32_t* indices,
                   int64_t count, int64_t bound);

}  // namespace lowrank::ops
