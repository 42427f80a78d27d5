// The block architectures, one file each. Which one a model has is its family's to say.
#pragma once

#include "model/block.h"

namespace lowrank {

// Pre-norm attention and gated MLP: Llama, Mistral, Qwen and their like.
extern const BlockKind kLlamaBlock;

}  // namespace lowrank
