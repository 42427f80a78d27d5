#include "ops/squared_norm.h"

#include "ops/check.h"

namespace lowrank::ops {

void squared_norm(const Device& device, const SquaredNorm& op) {
  const char* name = "squared_norm";
  require(op.tensor_count >= 0, name, "tensor_count is negative");
  check_pointer(name, "tensors", op.tensors, op.tensor_count);
  check_pointer(name, "counts", op.counts, op.tensor_count);
  require(op.finite_count >= 0, name, "finite_count is negative");
  check_pointer(name, "finite", op.finite, op.finite_count);
  check_pointer(name, "result", op.result);
  for (int32_t i = 0; i < op.tensor_count; ++i) {
    require(op.counts[i] >= 0, name, "a tensor's count is negative");
    check_pointer(name, "a tensor", op.tensors[i], op.counts[i]);
  }
  device.check(device.backend().squared_norm(device.handle(), &op), name);
}

}  // namespace lowrank::ops
