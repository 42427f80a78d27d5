// Linear layer over a weight of any storage type, with LoRA segments; see backend.h. Throws
// Error{kInvalidArgument} for arguments that break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

// Bytes that a linear op of this shape (or a smaller one) needs as workspace; 0 when none.
size_t linear_workspace_bytes(const Device& device, const LinearShape& shape);

void linear_forward(const Device& device, const LinearForward& op);
void linear_backward(const Device& device, const LinearBackward& op);

}  // namespace lowrank::ops
