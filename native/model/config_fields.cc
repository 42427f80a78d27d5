#include "model/config_fields.h"

#include "core/error.h"
#include "io/json.h"

namespace lowrank {
namespace {

Activation parse_activation(ConfigReader& reader) {
  const Json* value = reader.field("hidden_act");
  const std::string name = value ? value->as_string(reader.place("hidden_act")) : "silu";
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::kGeluTanh;
  if (name == "relu") return Activation::kRelu;
  reader.unsupported("hidden_act", "the activation '" + name + "' isn't supported");
}

// transformers 5 writes rope_parameters, 4 wrote rope_theta and rope_scaling.
RopeConfig parse_rope(ConfigReader& reader, double default_theta, int64_t max_positions) {
  RopeConfig rope;
  rope.theta = reader.number("rope_theta", default_theta);
  rope.original_max_positions = static_cast<double>(max_positions);
  if (reader.number("partial_rotary_factor", 1) != 1)
    reader.unsupported("partial_rotary_factor", "partial rotary embeddings aren't supported");
  // When a file has both, transformers takes the old one unless it is empty.
  const Json* scaling = reader.field("rope_scaling");
  const Json* parameters = reader.field("rope_parameters");
  const char* key = "rope_scaling";
  if (!scaling || (scaling->is_object() && scaling->as_object(key).empty())) {
    scaling = parameters;
    key = "rope_parameters";
  }
  if (!scaling) return rope;

  ConfigReader fields(*scaling, reader.place(key));
  rope.theta = fields.number("rope_theta", rope.theta);
  const Json* type = fields.field("rope_type");
  const Json* old_type = fields.field("type");
  if (!type) type = old_type;
  const std::string name = type ? type->as_string(fields.place("rope_type")) : "default";
  const Json* factor = fields.field("factor");
  if (name != "default") {
    rope.original_max_positions =
        fields.number("original_max_position_embeddings", rope.original_max_positions);
    if (!(rope.original_max_positions > 0))
      fields.invalid("original_max_position_embeddings", "must be positive");
    if (!factor && name == "yarn" && fields.has("factor")) {
      rope.factor = static_cast<double>(max_positions) / rope.original_max_positions;
    } else {
      rope.factor = fields.number("factor");
    }
    if (!(rope.factor > 0)) fields.invalid("factor", "must be positive");
  }
  if (!(rope.theta > 0)) fields.invalid("rope_theta", "must be positive");
  if (name == "default") {
    rope.type = RopeType::kDefault;
  } else if (name == "linear") {
    rope.type = RopeType::kLinear;
  } else if (name == "dynamic") {
    rope.type = RopeType::kDynamic;
  } else if (name == "yarn") {
    rope.type = RopeType::kYarn;
    rope.beta_fast = fields.number("beta_fast", 32);
    rope.beta_slow = fields.number("beta_slow", 1);
    rope.attention_factor = fields.number("attention_factor", 0);
    rope.mscale = fields.number("mscale", 0);
    rope.mscale_all_dim = fields.number("mscale_all_dim", 0);
    rope.truncate = fields.flag("truncate", true);
  } else if (name == "llama3") {
    rope.type = RopeType::kLlama3;
    rope.low_freq_factor = fields.number("low_freq_factor");
    rope.high_freq_factor = fields.number("high_freq_factor");
    if (!(rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor))
      fields.invalid("high_freq_factor", "must be larger than low_freq_factor, both positive");
  } else {
    fields.unsupported("rope_type", "the RoPE scaling '" + name + "' isn't supported");
  }
  if (fields.number("partial_rotary_factor", 1) != 1)
    fields.unsupported("partial_rotary_factor", "partial rotary embeddings aren't supported");
  fields.field("original_max_position_embeddings");
  fields.finish();
  return rope;
}

void parse_tokens(ConfigReader& reader, ModelConfig* config) {
  const auto id = [&](const char* name) {
    const Json* value = reader.field(name);
    return value ? static_cast<int32_t>(value->as_integer(reader.place(name))) : -1;
  };
  config->bos_token_id = id("bos_token_id");
  config->pad_token_id = id("pad_token_id");
  // As torch.nn.Embedding reads a negative padding_idx: from the end.
  if (reader.field("pad_token_id"))
    config->padding_row = config->pad_token_id < 0
                              ? static_cast<int32_t>(config->vocabulary) + config->pad_token_id
                              : config->pad_token_id;
  const Json* eos = reader.field("eos_token_id");
  if (!eos) return;
  if (!eos->is_array()) {
    config->eos_token_ids.push_back(
        static_cast<int32_t>(eos->as_integer(reader.place("eos_token_id"))));
    return;
  }
  for (const Json& value : eos->as_array("eos_token_id"))
    config->eos_token_ids.push_back(
        static_cast<int32_t>(value.as_integer(reader.place("eos_token_id"))));
}

DType parse_dtype(ConfigReader& reader) {
  const Json* value = reader.field("dtype");
  const Json* old = reader.field("torch_dtype");
  if (!value) value = old;
  if (!value) return DType::kF32;
  const std::string& name = value->as_string(reader.place("dtype"));
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  reader.unsupported("dtype", "weights of type '" + name + "' aren't supported");
}

void refuse_what_changes_the_maths(ConfigReader& reader) {
  if (reader.number("attention_dropout", 0) != 0)
    reader.unsupported("attention_dropout", "dropout inside attention isn't supported");
  // Slices products over tensor-parallel ranks in pretraining; 1 means off.
  if (reader.number("pretraining_tp", 1) != 1)
    reader.unsupported("pretraining_tp", "only 1 is supported");
  if (const Json* quantization = reader.field("quantization_config")) {
    const Json* method = quantization->find("quant_method");
    reader.unsupported(
        "quantization_config",
        "the weights are already quantized" +
            (method && method->is_string() ? " (" + method->as_string("quant_method") + ")"
                                           : std::string()) +
            "; load the original model and let the engine quantize it");
  }
}

// The field, one entry per layer: 1 where a layer slides; empty when there is no field.
std::vector<uint8_t> sliding_layers(ConfigReader& reader, size_t layers, bool any_window) {
  const Json* types = reader.field("layer_types");
  if (!types) return {};
  const auto& list = types->as_array(reader.place("layer_types"));
  if (list.size() != layers) reader.invalid("layer_types", "must have one entry per layer");
  std::vector<uint8_t> sliding;
  for (const Json& entry : list) {
    const std::string& type = entry.as_string(reader.place("layer_types"));
    sliding.push_back(type == "sliding_attention");
    if (!sliding.back() && type != "full_attention")
      reader.unsupported("layer_types", "the layer type '" + type + "' isn't supported");
    if (sliding.back() && !any_window)
      reader.invalid("layer_types", "a sliding layer without sliding_window");
  }
  return sliding;
}

}  // namespace

void read_decoder(ConfigReader& reader, const DecoderDefaults& defaults, ModelConfig* config) {
  config->dtype = parse_dtype(reader);
  config->vocabulary = reader.positive("vocab_size");
  config->hidden = reader.positive("hidden_size");
  config->intermediate = reader.positive("intermediate_size");
  config->layers = reader.positive("num_hidden_layers");
  config->heads = static_cast<int32_t>(reader.positive("num_attention_heads"));
  const bool missing = defaults.kv_heads > 0 && !reader.has("num_key_value_heads");
  config->kv_heads = static_cast<int32_t>(
      reader.positive("num_key_value_heads", missing ? defaults.kv_heads : config->heads));
  config->head_dim = static_cast<int32_t>(reader.positive(
      "head_dim", defaults.head_dim > 0 ? defaults.head_dim : config->hidden / config->heads));
  config->rotary_dim = config->head_dim;
  if (config->heads % config->kv_heads != 0)
    reader.invalid("num_key_value_heads", "must divide num_attention_heads");
  if (config->head_dim <= 0 || config->head_dim % 2 != 0)
    reader.invalid("head_dim", "must be even and positive");
  config->max_positions = reader.positive("max_position_embeddings", defaults.max_positions);
  config->rms_norm_eps = static_cast<float>(reader.number("rms_norm_eps", defaults.rms_norm_eps));
  config->initializer_range = static_cast<float>(reader.number("initializer_range", 0.02));
  config->activation = parse_activation(reader);
  config->tied_embeddings = reader.flag("tie_word_embeddings", defaults.tied);
  config->rope = parse_rope(reader, defaults.theta, config->max_positions);
  config->layer_uses_rope.assign(static_cast<size_t>(config->layers), 1);
  config->layer_window.assign(static_cast<size_t>(config->layers), 0);
  parse_tokens(reader, config);
  refuse_what_changes_the_maths(reader);
}

int32_t read_window(ConfigReader& reader, int32_t missing) {
  if (reader.field("sliding_window"))
    return static_cast<int32_t>(reader.positive("sliding_window"));
  return reader.has("sliding_window") ? 0 : missing;
}

void read_upper_windows(ConfigReader& reader, ModelConfig* config) {
  const bool enabled = reader.flag("use_sliding_window", false);
  const int64_t first = reader.positive_or_zero("max_window_layers", 28);
  reader.field("sliding_window");
  const int32_t window = enabled ? read_window(reader, 4096) : 0;
  for (size_t i = 0; i < config->layer_window.size(); ++i)
    config->layer_window[i] = static_cast<int64_t>(i) >= first ? window : 0;
  read_layer_types(reader, window, config);
}

void read_layer_types(ConfigReader& reader, int32_t window, ModelConfig* config) {
  const auto sliding = sliding_layers(reader, config->layer_window.size(), window > 0);
  for (size_t i = 0; i < sliding.size(); ++i) config->layer_window[i] = sliding[i] ? window : 0;
}

void check_layer_types(ConfigReader& reader, const ModelConfig& config) {
  const size_t layers = config.layer_window.size();
  const auto sliding = sliding_layers(reader, layers, layers > 0 && config.layer_window[0] > 0);
  for (size_t i = 0; i < sliding.size(); ++i)
    if (sliding[i] != (config.layer_window[i] > 0))
      reader.unsupported("layer_types", "this architecture's layers are all of one type");
}

}  // namespace lowrank
