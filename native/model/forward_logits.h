// Logits of a whole document through the same blocks as training.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/adapter.h"

namespace lowrank {

// [count, vocabulary]; `adapter` may be null. Throws Error{kInvalidArgument} on ids outside the
// vocabulary and on more tokens than the model was loaded for.
std::vector<float> forward_logits(const std::shared_ptr<ModelImpl>& model,
                                  const std::shared_ptr<AdapterImpl>& adapter, const int32_t* ids,
                                  int64_t count);

}  // namespace lowrank
