#include "ops/layer_norm.h"

#include "ops/check.h"

namespace lowrank::ops {

void layer_norm_forward(const Device& device, const LayerNormForward& op) {
  const char* name = "layer_norm_forward";
  check_matrix(name, "x", op.x, op.x.rows, op.x.cols);
  check_matrix(name, "y", op.y, op.x.rows, op.x.cols, op.x.dtype);
  check_pointer(name, "weight", op.weight, op.x.cols);
  check_disjoint_or_same(name, "y", op.y, "x", op.x);
  require(op.eps >= 0, name, "eps is negative");
  device.check(device.backend().layer_norm_forward(device.handle(), &op), name);
}

void layer_norm_backward(const Device& device, const LayerNormBackward& op) {
  const char* name = "layer_norm_backward";
  check_matrix(name, "x", op.x, op.x.rows, op.x.cols);
  check_matrix(name, "d_y", op.d_y, op.x.rows, op.x.cols, op.x.dtype);
  check_matrix(name, "d_x", op.d_x, op.x.rows, op.x.cols, op.x.dtype);
  check_pointer(name, "weight", op.weight, op.x.cols);
  check_pointer(name, "mean", op.mean, op.x.rows);
  check_pointer(name, "rstd", op.rstd, op.x.rows);
  check_disjoint(name, "d_x", op.d_x, "x", op.x);
  if (op.accumulate_d_x)
    check_disjoint(name, "d_x", op.d_x, "d_y", op.d_y);
  else
    check_disjoint_or_same(name, "d_x", op.d_x, "d_y", op.d_y);
  device.check(device.backend().layer_norm_backward(device.handle(), &op), name);
}

}  // namespace lowrank::ops
