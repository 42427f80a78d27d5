// What differs between architecture families, as data: a new decoder family of the same block is a
// row here.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lowrank {

enum class WindowRule : uint8_t {
  kNone,        // full attention; a sliding_window field is refused
  kAllLayers,   // Mistral: sliding_window (null = off) holds for every layer
  kUpperLayers  // Qwen: use_sliding_window, from layer max_window_layers on, or layer_types
};

struct Family {
  const char* model_type;
  // Defaults of fields that config.json may leave out.
  bool qkv_bias = false;           // fixed by the architecture unless has_attention_bias
  bool has_attention_bias = true;  // reads attention_bias (q, k, v and o)
  bool has_mlp_bias = true;        // reads mlp_bias
  bool qk_norm = false;
  bool skips_rope = false;         // reads no_rope_layers (SmolLM3)
  bool explicit_head_dim = false;  // head_dim defaults to 128, not hidden / heads (Qwen3)
  WindowRule window = WindowRule::kNone;
  bool tied_by_default = false;
  int32_t default_kv_heads = 0;  // 0 = as many as heads
  int32_t default_window = 0;    // of a missing sliding_window; 0 = none
  int64_t default_max_positions = 2048;
  double default_theta = 10000;
  double default_rms_norm_eps = 1e-6;
};

// Null when the family isn't supported.
const Family* find_family(const std::string& model_type);
std::vector<std::string> family_names();

}  // namespace lowrank
