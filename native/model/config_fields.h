// Fields of config.json that several families share, for the files in families/.
#pragma once

#include "model/config.h"
#include "model/config_reader.h"

namespace lowrank {

// What a file that leaves a field out means.
struct DecoderDefaults {
  int64_t kv_heads = 0;  // 0 = as many as heads
  int64_t head_dim = 0;  // 0 = hidden / heads
  int64_t max_positions = 2048;
  double theta = 10000;
  double rms_norm_eps = 1e-6;
  bool tied = false;
};

// Sizes, norm, activation, RoPE, tokens and storage type; no biases, RoPE in every layer and no
// sliding window until the family says otherwise.
void read_decoder(ConfigReader& reader, const DecoderDefaults& defaults, ModelConfig* config);

// sliding_window: 0 when null, `missing` when there is none.
int32_t read_window(ConfigReader& reader, int32_t missing);
// Qwen: use_sliding_window, from layer max_window_layers on, or as layer_types says.
void read_upper_windows(ConfigReader& reader, ModelConfig* config);
// layer_types, when there is one, decides which layers have the window.
void read_layer_types(ConfigReader& reader, int32_t window, ModelConfig* config);
// For families whose code doesn't read layer_types: it must say what the layers are anyway.
void check_layer_types(ConfigReader& reader, const ModelConfig& config);

}  // namespace lowrank
