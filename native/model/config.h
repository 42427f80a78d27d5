// What a Hugging Face config.json says about a decoder. A field that would change the maths and
// isn't understood is an error naming the field, never a wrong answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace lowrank {

enum class RopeType : uint8_t { kDefault, kLinear, kDynamic, kYarn, kLlama3 };

struct RopeConfig {
  RopeType type = RopeType::kDefault;
  double theta = 10000;
  double factor = 1;
  double original_max_positions = 0;
  double low_freq_factor = 1, high_freq_factor = 4;            // llama3
  double beta_fast = 32, beta_slow = 1, attention_factor = 0;  // yarn; 0 = derived
  double mscale = 0, mscale_all_dim = 0;
  bool truncate = true;
};

struct BlockKind;  // model/block.h

// What stands around the blocks, by its names in Hugging Face's files.
struct ModelNames {
  std::string embedding = "model.embed_tokens.weight";
  std::string layers = "model.layers.";  // then the layer's number and a dot
  std::string final_norm = "model.norm.weight";
  std::string head = "lm_head.weight";
};

struct ModelConfig {
  std::string family;
  const BlockKind* block = nullptr;  // the family's
  ModelNames names;
  std::string json;           // the text it was parsed from; written back on save
  DType dtype = DType::kF32;  // "dtype" or "torch_dtype": the type of the files' tensors
  int64_t vocabulary = 0, hidden = 0, intermediate = 0, layers = 0;
  int32_t heads = 0, kv_heads = 0, head_dim = 0, rotary_dim = 0;
  int64_t max_positions = 0;
  float rms_norm_eps = 1e-6f;
  float initializer_range = 0.02f;
  Activation activation = Activation::kSilu;
  bool tied_embeddings = false;
  bool qkv_bias = false, output_bias = false, mlp_bias = false;
  bool qk_norm = false;
  RopeConfig rope;
  std::vector<uint8_t> layer_uses_rope;  // per layer (SmolLM3 leaves some out)
  std::vector<int32_t> layer_window;     // per layer; 0 = full attention
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1, pad_token_id = -1;
  // The embedding's row that lookups don't train (transformers: padding_idx = pad_token_id).
  int32_t padding_row = -1;
};

// Throws Error{kInvalidFile} or Error{kUnsupported} with the field as the place.
ModelConfig parse_model_config(const std::string& json_text, const std::string& where);

}  // namespace lowrank
