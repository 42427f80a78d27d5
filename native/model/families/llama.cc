// Llama, and SmolLM2, which says it is one.
#include "model/blocks/blocks.h"
#include "model/config_fields.h"
#include "model/families/families.h"

namespace lowrank {
namespace {

void read(ConfigReader& reader, ModelConfig* config) {
  read_decoder(reader, {}, config);
  config->qkv_bias = config->output_bias = reader.flag("attention_bias", false);
  config->mlp_bias = reader.flag("mlp_bias", false);
  if (read_window(reader, 0) > 0)
    reader.unsupported("sliding_window", "this architecture has no sliding window");
  check_layer_types(reader, *config);
}

}  // namespace

const Family kLlama = {"llama", &kLlamaBlock, read};

}  // namespace lowrank
