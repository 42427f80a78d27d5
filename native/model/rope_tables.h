// Rotary frequencies as transformers computes them (modeling_rope_utils), for each scaling type.
#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"

namespace lowrank {

// rotary_dim / 2 inverse frequencies. `longest` is the longest sequence of the batch; only dynamic
// scaling looks at it.
std::vector<float> rope_frequencies(const ModelConfig& config, int64_t longest);

// The factor on cos and sin (yarn's attention factor; 1 otherwise).
float rope_attention_factor(const RopeConfig& rope);

// cos and sin [positions, rotary_dim / 2].
void fill_rope_tables(const ModelConfig& config, int64_t longest, int64_t positions,
                      std::vector<float>* cos, std::vector<float>* sin);

}  // namespace lowrank
