#include "ops/head_loss.h"

#include "ops/check.h"

namespace lowrank::ops {

size_t head_loss_workspace_bytes(const Device& device, const HeadLossShape& shape) {
  return device.backend().head_loss_workspace_bytes(device.handle(), &shape);
}

void head_loss(const Device& device, const HeadLoss& op) {
  const char* name = "head_loss";
  const bool backward = op.d_x.data || op.d_weight || op.d_bias;
  check_matrix(name, "x", op.x, op.x.rows, op.weight.cols);
  check_weight(name, "weight", op.weight, op.weight.rows, op.weight.cols);
  require(op.count >= 0 && op.count <= op.x.rows, name, "count is outside [0, rows of x]");
  require(op.count == 0 || op.weight.rows > 0, name, "the vocabulary is empty");
  if (op.d_x.data) {
    check_matrix(name, "d_x", op.d_x, op.x.rows, op.x.cols, op.x.dtype);
    check_disjoint(name, "d_x", op.d_x, "x", op.x);
  }
  check_indices(name, "rows", device, op.rows, op.count, op.x.rows);
  check_indices(name, "targets", device, op.targets, op.count, op.weight.rows);
  for (int32_t i = 1; device.backend().host_memory && i < op.count; ++i)
    require(op.rows[i] > op.rows[i - 1], name, "rows must ascend without repeats");
  check_pointer(name, "logprob", op.logprob, op.count);
  if (backward) check_pointer(name, "weights", op.weights, op.count);
  HeadLossShape shape;
  shape.labelled = op.count;
  shape.hidden = op.weight.cols;
  shape.vocabulary = op.weight.rows;
  shape.backward = op.d_x.data;
  shape.weight_gradient = op.d_weight || op.d_bias;
  shape.activation = op.x.dtype;
  shape.storage = op.weight.storage;
  check_workspace(name, op.workspace, op.workspace_bytes, head_loss_workspace_bytes(device, shape));
  device.check(device.backend().head_loss(device.handle(), &op), name);
}

}  // namespace lowrank::ops
