// The sum of squares over a list of f32 tensors, left on the device; see backend.h. Throws
// Error{kInvalidArgument} for arguments that break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

void squared_norm(const Device& device, const SquaredNorm& op);

}  // namespace lowrank::ops
