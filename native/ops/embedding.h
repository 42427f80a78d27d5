// Embedding lookup and its gradient; see backend.h. Throws Error{kInvalidArgument} for arguments
// that break the contract, such as an id outside the vocabulary.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

void embedding_forward(const Device& device, const EmbeddingForward& op);
void embedding_backward(const Device& device, const EmbeddingBackward& op);

}  // namespace lowrank::ops
