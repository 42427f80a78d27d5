// SmolLM3: some layers have no rotary embedding, and those alone may have a sliding window.
#include "model/blocks/blocks.h"
#include "model/config_fields.h"
#include "model/families/families.h"

namespace lowrank {
namespace {

void read_rope_layers(ConfigReader& reader, ModelConfig* config) {
  const size_t layers = config->layer_uses_rope.size();
  const int64_t interval = reader.positive("no_rope_layer_interval", 4);
  const Json* list = reader.field("no_rope_layers");
  for (size_t i = 0; i < layers; ++i)
    config->layer_uses_rope[i] = (static_cast<int64_t>(i) + 1) % interval != 0;
  if (!list) return;
  const auto& values = list->as_array(reader.place("no_rope_layers"));
  if (values.empty()) return;
  if (values.size() != layers) reader.invalid("no_rope_layers", "must have one entry per layer");
  for (size_t i = 0; i < layers; ++i)
    config->layer_uses_rope[i] = values[i].as_integer(reader.place("no_rope_layers")) != 0;
}

void read(ConfigReader& reader, ModelConfig* config) {
  DecoderDefaults defaults;
  defaults.kv_heads = 4;
  defaults.max_positions = 32768;
  defaults.theta = 2000000;
  defaults.tied = true;
  read_decoder(reader, defaults, config);
  config->qkv_bias = config->output_bias = reader.flag("attention_bias", false);
  config->mlp_bias = reader.flag("mlp_bias", false);
  read_rope_layers(reader, config);
  reader.field("max_window_layers");  // written, but not used
  reader.field("sliding_window");     // also where it is switched off
  const int32_t window = reader.flag("use_sliding_window", false) ? read_window(reader, 0) : 0;
  for (size_t i = 0; i < config->layer_window.size(); ++i)
    config->layer_window[i] = config->layer_uses_rope[i] ? 0 : window;
  read_layer_types(reader, window, config);
}

}  // namespace

const Family kSmolLm3 = {"smollm3", &kLlamaBlock, read};

}  // namespace lowrank
