// Qwen2 and Qwen2.5: biases on q, k and v alone; layers from max_window_layers on may have a
// sliding window.
#include "model/blocks/blocks.h"
#include "model/config_fields.h"
#include "model/families/families.h"

namespace lowrank {
namespace {

void read(ConfigReader& reader, ModelConfig* config) {
  DecoderDefaults defaults;
  defaults.kv_heads = 32;
  defaults.max_positions = 32768;
  read_decoder(reader, defaults, config);
  config->qkv_bias = true;
  read_upper_windows(reader, config);
}

}  // namespace

const Family kQwen2 = {"qwen2", &kLlamaBlock, read};

}  // namespace lowrank
