// The fused language-model head and cross-entropy; see backend.h. Throws Error{kInvalidArgument}
// for arguments that break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

// Bytes that a head loss of this shape (or a smaller one) needs as workspace; 0 when none.
size_t head_loss_workspace_bytes(const Device& device, const HeadLossShape& shape);

void head_loss(const Device& device, const HeadLoss& op);

}  // namespace lowrank::ops
