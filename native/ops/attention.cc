#include "ops/attention.h"

#include "ops/check.h"

namespace lowrank::ops {
namespace {

void check_offsets(const char* name, const Device& device, const AttentionForward& op) {
  require(op.documents >= 0, name, "documents is negative");
  check_pointer(name, "q_offsets", op.q_offsets);
  check_pointer(name, "k_offsets", op.k_offsets);
  if (!device.backend().host_memory) return;
  require(op.q_offsets[0] == 0 && op.k_offsets[0] == 0, name, "offsets must begin with 0");
  for (int32_t d = 0; d < op.documents; ++d) {
    const int64_t lq = int64_t{op.q_offsets[d + 1]} - op.q_offsets[d];
    const int64_t lk = int64_t{op.k_offsets[d + 1]} - op.k_offsets[d];
    require(lq >= 0 && lk >= lq, name, "a document has fewer key rows than query rows");
  }
  require(op.q_offsets[op.documents] == op.q.rows, name, "q_offsets must end with q's rows");
  require(op.k_offsets[op.documents] == op.k.rows, name, "k_offsets must end with k's rows");
}

void check_forward(const char* name, const Device& device, const AttentionForward& op,
                   bool backward) {
  require(op.heads > 0 && op.kv_heads > 0 && op.head_dim > 0, name,
          "heads, kv_heads and head_dim must be positive");
  require(op.heads % op.kv_heads == 0, name, "heads must be a multiple of kv_heads");
  require(op.window >= 0, name, "window is negative");
  const int64_t q_cols = int64_t{op.heads} * op.head_dim;
  const int64_t kv_cols = int64_t{op.kv_heads} * op.head_dim;
  const DType dtype = op.q.dtype;
  check_matrix(name, "q", op.q, op.q.rows, q_cols);
  check_matrix(name, "k", op.k, op.k.rows, kv_cols, dtype);
  check_matrix(name, "v", op.v, op.k.rows, kv_cols, dtype);
  check_matrix(name, "out", op.out, op.q.rows, q_cols, dtype);
  check_disjoint(name, "out", op.out, "q", op.q);
  check_disjoint(name, "out", op.out, "k", op.k);
  check_disjoint(name, "out", op.out, "v", op.v);
  check_offsets(name, device, op);
  AttentionShape shape;
  shape.query_tokens = op.q.rows;
  shape.key_tokens = op.k.rows;
  shape.heads = op.heads;
  shape.kv_heads = op.kv_heads;
  shape.head_dim = op.head_dim;
  shape.backward = backward;
  shape.activation = dtype;
  check_workspace(name, op.workspace, op.workspace_bytes, attention_workspace_bytes(device, shape));
}

}  // namespace

size_t attention_workspace_bytes(const Device& device, const AttentionShape& shape) {
  return device.backend().attention_workspace_bytes(device.handle(), &shape);
}

void attention_forward(const Device& device, const AttentionForward& op) {
  const char* name = "attention_forward";
  check_forward(name, device, op, false);
  device.check(device.backend().attention_forward(device.handle(), &op), name);
}

void attention_backward(const Device& device, const AttentionBackward& op) {
  const char* name = "attention_backward";
  const AttentionForward& f = op.forward;
  check_forward(name, device, f, true);
  check_pointer(name, "lse", f.lse, f.q.rows);
  check_matrix(name, "d_out", op.d_out, f.q.rows, f.q.cols, f.q.dtype);
  check_matrix(name, "d_q", op.d_q, f.q.rows, f.q.cols, f.q.dtype);
  check_matrix(name, "d_k", op.d_k, f.k.rows, f.k.cols, f.q.dtype);
  check_matrix(name, "d_v", op.d_v, f.k.rows, f.k.cols, f.q.dtype);
  check_disjoint_or_same(name, "d_q", op.d_q, "d_out", op.d_out);
  const struct {
    const char* name;
    const Matrix& matrix;
  } inputs[] = {{"q", f.q}, {"k", f.k}, {"v", f.v}, {"out", f.out}};
  for (const auto& input : inputs) {
    check_disjoint(name, "d_q", op.d_q, input.name, input.matrix);
    check_disjoint(name, "d_k", op.d_k, input.name, input.matrix);
    check_disjoint(name, "d_v", op.d_v, input.name, input.matrix);
  }
  check_disjoint(name, "d_k", op.d_k, "d_out", op.d_out);
  check_disjoint(name, "d_v", op.d_v, "d_out", op.d_out);
  check_disjoint(name, "d_k", op.d_k, "d_v", op.d_v);
  check_disjoint(name, "d_q", op.d_q, "d_k", op.d_k);
  check_disjoint(name, "d_q", op.d_q, "d_v", op.d_v);
  device.check(device.backend().attention_backward(device.handle(), &op), name);
}

}  // namespace lowrank::ops
