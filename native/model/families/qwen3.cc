// Qwen3: a norm on each head's q and k, and a head_dim of its own; windows as in Qwen2.
#include "model/blocks/blocks.h"
#include "model/config_fields.h"
#include "model/families/families.h"

namespace lowrank {
namespace {

void read(ConfigReader& reader, ModelConfig* config) {
  DecoderDefaults defaults;
  defaults.kv_heads = 32;
  defaults.head_dim = 128;
  defaults.max_positions = 32768;
  read_decoder(reader, defaults, config);
  config->qk_norm = true;
  config->qkv_bias = config->output_bias = reader.flag("attention_bias", false);
  read_upper_windows(reader, config);
}

}  // namespace

const Family kQwen3 = {"qwen3", &kLlamaBlock, read};

}  // namespace lowrank
