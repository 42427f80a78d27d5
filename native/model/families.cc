#include "model/families.h"

namespace lowrank {
namespace {

constexpr Family kFamilies[] = {
    {.model_type = "llama"},
    {.model_type = "mistral",
     .has_attention_bias = false,
     .has_mlp_bias = false,
     .window = WindowRule::kAllLayers,
     .default_kv_heads = 8,
     .default_window = 4096,
     .default_max_positions = 131072},
    {.model_type = "qwen2",
     .qkv_bias = true,
     .has_attention_bias = false,
     .has_mlp_bias = false,
     .window = WindowRule::kUpperLayers,
     .default_kv_heads = 32,
     .default_window = 4096,
     .default_max_positions = 32768},
    {.model_type = "qwen3",
     .has_mlp_bias = false,
     .qk_norm = true,
     .explicit_head_dim = true,
     .window = WindowRule::kUpperLayers,
     .default_kv_heads = 32,
     .default_window = 4096,
     .default_max_positions = 32768},
    {.model_type = "smollm3",
     .skips_rope = true,
     .window = WindowRule::kUpperLayers,
     .tied_by_default = true,
     .default_kv_heads = 4,
     .default_max_positions = 32768,
     .default_theta = 2000000},
};

}  // namespace

const Family* find_family(const std::string& model_type) {
  for (const Family& family : kFamilies)
    if (model_type == family.model_type) return &family;
  return nullptr;
}

std::vector<std::string> family_names() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.push_back(family.model_type);
  return names;
}

}  // namespace lowrank
