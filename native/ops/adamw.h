// AdamW over a list of tensors, with f32 or 8-bit states and clipping; see backend.h. Throws
// Error{kInvalidArgument} for arguments that break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

void adamw(const Device& device, const AdamW& op);

}  // namespace lowrank::ops
