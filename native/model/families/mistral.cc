// Mistral: sliding_window (null = off) holds for every layer.
#include "model/blocks/blocks.h"
#include "model/config_fields.h"
#include "model/families/families.h"

namespace lowrank {
namespace {

void read(ConfigReader& reader, ModelConfig* config) {
  DecoderDefaults defaults;
  defaults.kv_heads = 8;
  defaults.max_positions = 131072;
  read_decoder(reader, defaults, config);
  const int32_t window = read_window(reader, 4096);
  config->layer_window.assign(config->layer_window.size(), window);
  check_layer_types(reader, *config);
}

}  // namespace

const Family kMistral = {"mistral", &kLlamaBlock, read};

}  // namespace lowrank
