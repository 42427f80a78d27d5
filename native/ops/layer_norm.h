// LayerNorm and its gradient; see backend.h. Throws Error{kInvalidArgument} for arguments that
// break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

void layer_norm_forward(const Device& device, const LayerNormForward& op);
void layer_norm_backward(const Device& device, const LayerNormBackward& op);

}  // namespace lowrank::ops
