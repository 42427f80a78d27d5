// RMSNorm and its gradient; see backend.h. Throws Error{kInvalidArgument} for arguments that break
// the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

void rms_norm_forward(const Device& device, const RmsNormForward& op);
void rms_norm_backward(const Device& device, const RmsNormBackward& op);

}  // namespace lowrank::ops
