// Causal attention over packed documents and its gradient; see backend.h. Throws
// Error{kInvalidArgument} for arguments that break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

// Bytes that an attention op of this shape (or a smaller one) needs as workspace; 0 when none.
size_t attention_workspace_bytes(const Device& device, const AttentionShape& shape);

void attention_forward(const Device& device, const AttentionForward& op);
void attention_backward(const Device& device, const AttentionBackward& op);

}  // namespace lowrank::ops
