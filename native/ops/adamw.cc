#include "ops/adamw.h"

#include "ops/check.h"

namespace lowrank::ops {

void adamw(const Device& device, const AdamW& op) {
  const char* name = "adamw";
  require(op.tensor_count >= 0, name, "tensor_count is negative");
  check_pointer(name, "tensors", op.tensors, op.tensor_count);
  require(op.step >= 1, name, "step counts from 1");
  require(op.beta1 >= 0 && op.beta1 < 1 && op.beta2 >= 0 && op.beta2 < 1, name,
          "beta1 and beta2 must be in [0, 1)");
  require(op.eps >= 0, name, "eps is negative");
  for (int32_t i = 0; i < op.tensor_count; ++i) {
    const AdamWTensor& tensor = op.tensors[i];
    require(tensor.count >= 0, name, "a tensor's count is negative");
    check_pointer(name, "parameter", tensor.parameter, tensor.count);
    check_pointer(name, "gradient", tensor.gradient, tensor.count);
    if (op.eight_bit) {
      check_pointer(name, "m_codes", tensor.m_codes, tensor.count);
      check_pointer(name, "v_codes", tensor.v_codes, tensor.count);
      check_pointer(name, "m_absmax", tensor.m_absmax, tensor.count);
      check_pointer(name, "v_absmax", tensor.v_absmax, tensor.count);
    } else {
      check_pointer(name, "m", tensor.m, tensor.count);
      check_pointer(name, "v", tensor.v, tensor.count);
    }
  }
  device.check(device.backend().adamw(device.handle(), &op), name);
}

}  // namespace lowrank::ops
