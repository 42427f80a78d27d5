// activation(gate) * up and its gradient; see backend.h. Throws Error{kInvalidArgument} for
// arguments that break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

void gated_activation_forward(const Device& device, const GatedActivationForward& op);
void gated_activation_backward(const Device& device, const GatedActivationBackward& op);

}  // namespace lowrank::ops
