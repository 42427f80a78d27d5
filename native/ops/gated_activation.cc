#include "ops/gated_activation.h"

#include "ops/check.h"

namespace lowrank::ops {

void gated_activation_forward(const Device& device, const GatedActivationForward& op) {
  const char* name = "gated_activation_forward";
  const int64_t rows = op.gate.rows, cols = op.gate.cols;
  check_matrix(name, "gate", op.gate, rows, cols);
  if (op.up.data) check_matrix(name, "up", op.up, rows, cols, op.gate.dtype);
  check_matrix(name, "y", op.y, rows, cols, op.gate.dtype);
  check_disjoint_or_same(name, "y", op.y, "gate", op.gate);
  if (op.up.data) check_disjoint_or_same(name, "y", op.y, "up", op.up);
  require(op.activation <= Activation::kRelu, name, "unknown activation");
  device.check(device.backend().gated_activation_forward(device.handle(), &op), name);
}

void gated_activation_backward(const Device& device, const GatedActivationBackward& op) {
  const char* name = "gated_activation_backward";
  const int64_t rows = op.gate.rows, cols = op.gate.cols;
  check_matrix(name, "gate", op.gate, rows, cols);
  check_matrix(name, "d_y", op.d_y, rows, cols, op.gate.dtype);
  check_matrix(name, "d_gate", op.d_gate, rows, cols, op.gate.dtype);
  check_disjoint_or_same(name, "d_gate", op.d_gate, "gate", op.gate);
  check_disjoint(name, "d_gate", op.d_gate, "d_y", op.d_y);
  if (op.up.data) {
    check_matrix(name, "up", op.up, rows, cols, op.gate.dtype);
    check_matrix(name, "d_up", op.d_up, rows, cols, op.gate.dtype);
    check_disjoint_or_same(name, "d_up", op.d_up, "up", op.up);
    check_disjoint(name, "d_gate", op.d_gate, "up", op.up);
    check_disjoint(name, "d_up", op.d_up, "gate", op.gate);
    check_disjoint(name, "d_up", op.d_up, "d_y", op.d_y);
    check_disjoint(name, "d_gate", op.d_gate, "d_up", op.d_up);
  } else {
    require(!op.d_up.data, name, "d_up without up");
  }
  require(op.activation <= Activation::kRelu, name, "unknown activation");
  device.check(device.backend().gated_activation_backward(device.handle(), &op), name);
}

}  // namespace lowrank::ops
