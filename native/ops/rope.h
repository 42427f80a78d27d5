// Rotary position embedding in place; see backend.h. Throws Error{kInvalidArgument} for arguments
// that break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

void rope(const Device& device, const Rope& op);

}  // namespace lowrank::ops
