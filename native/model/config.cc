#include "model/config.h"

#include "core/error.h"
#include "io/json.h"
#include "model/config_reader.h"
#include "model/families.h"

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
RopeConfig parse_rope(ConfigReader& reader, const Family& family, int64_t max_positions) {
  RopeConfig rope;
  rope.theta = reader.number("rope_theta", family.default_theta);
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

void parse_rope_layers(ConfigReader& reader, const Family& family, ModelConfig* config) {
  const auto layers = static_cast<size_t>(config->layers);
  config->layer_uses_rope.assign(layers, 1);
  if (!family.skips_rope) return;
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

void parse_windows(ConfigReader& reader, const Family& family, ModelConfig* config) {
  const auto layers = static_cast<size_t>(config->layers);
  config->layer_window.assign(layers, 0);
  const Json* field = reader.field("sliding_window");
  const bool by_flag = family.window == WindowRule::kUpperLayers;
  const bool enabled = !by_flag || reader.flag("use_sliding_window", false);
  const int64_t first = by_flag ? reader.positive_or_zero("max_window_layers", 28) : 0;
  const Json* types = reader.field("layer_types");
  int32_t window = 0;
  if (enabled) {
    if (field) window = static_cast<int32_t>(reader.positive("sliding_window"));
    if (!reader.has("sliding_window")) window = family.default_window;
  }
  if (enabled && window > 0 && family.window == WindowRule::kNone)
    reader.unsupported("sliding_window", "this architecture has no sliding window");
  for (size_t i = 0; i < layers; ++i) {
    const bool upper =
        family.skips_rope ? !config->layer_uses_rope[i] : static_cast<int64_t>(i) >= first;
    if (upper) config->layer_window[i] = window;
  }
  if (!types) return;
  const auto& list = types->as_array(reader.place("layer_types"));
  if (list.size() != layers) reader.invalid("layer_types", "must have one entry per layer");
  for (size_t i = 0; i < layers; ++i) {
    const std::string& type = list[i].as_string(reader.place("layer_types"));
    const bool sliding = type == "sliding_attention";
    if (!sliding && type != "full_attention")
      reader.unsupported("layer_types", "the layer type '" + type + "' isn't supported");
    if (sliding && window == 0)
      reader.invalid("layer_types", "a sliding layer without sliding_window");
    const int32_t wanted = sliding ? window : 0;
    // transformers ignores the field in these architectures.
    if (!by_flag && wanted != config->layer_window[i])
      reader.unsupported("layer_types", "this architecture's layers are all of one type");
    config->layer_window[i] = wanted;
  }
}

void parse_tokens(ConfigReader& reader, ModelConfig* config) {
  const auto id = [&](const char* name) {
    const Json* value = reader.field(name);
    return value ? static_cast<int32_t>(value->as_integer(reader.place(name))) : -1;
  };
  config->bos_token_id = id("bos_token_id");
  config->pad_token_id = id("pad_token_id");
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

}  // namespace

ModelConfig parse_model_config(const std::string& json_text, const std::string& where) {
  const Json json = Json::parse(json_text, where);
  json.as_object(where);
  ConfigReader reader(json, where);
  const Json* type = reader.field("model_type");
  if (!type) reader.invalid("model_type", "the field is missing");
  const std::string model_type = type->as_string(reader.place("model_type"));
  const Family* family = find_family(model_type);
  if (!family) {
    std::string names;
    for (const std::string& name : family_names()) names += (names.empty() ? "" : ", ") + name;
    throw Error(ErrorCode::kUnsupported, "the architecture '" + model_type + "' isn't supported",
                reader.place("model_type"), "supported are " + names);
  }

  ModelConfig config;
  config.family = model_type;
  config.json = json_text;
  config.dtype = parse_dtype(reader);
  config.vocabulary = reader.positive("vocab_size");
  config.hidden = reader.positive("hidden_size");
  config.intermediate = reader.positive("intermediate_size");
  config.layers = reader.positive("num_hidden_layers");
  config.heads = static_cast<int32_t>(reader.positive("num_attention_heads"));
  config.kv_heads = static_cast<int32_t>(reader.positive(
      "num_key_value_heads", family->default_kv_heads > 0 && !reader.has("num_key_value_heads")
                                 ? family->default_kv_heads
                                 : config.heads));
  config.head_dim = static_cast<int32_t>(
      reader.positive("head_dim", family->explicit_head_dim ? 128 : config.hidden / config.heads));
  config.rotary_dim = config.head_dim;
  if (config.heads % config.kv_heads != 0)
    reader.invalid("num_key_value_heads", "must divide num_attention_heads");
  if (config.head_dim % 2 != 0) reader.invalid("head_dim", "must be even");
  config.max_positions = reader.positive("max_position_embeddings", family->default_max_positions);
  config.rms_norm_eps =
      static_cast<float>(reader.number("rms_norm_eps", family->default_rms_norm_eps));
  config.initializer_range = static_cast<float>(reader.number("initializer_range", 0.02));
  config.activation = parse_activation(reader);
  config.tied_embeddings = reader.flag("tie_word_embeddings", family->tied_by_default);
  config.qk_norm = family->qk_norm;
  config.qkv_bias = family->qkv_bias;
  if (family->has_attention_bias) {
    config.qkv_bias = config.qkv_bias || reader.flag("attention_bias", false);
    config.output_bias = config.qkv_bias;
  }
  if (family->has_mlp_bias) config.mlp_bias = reader.flag("mlp_bias", false);
  config.rope = parse_rope(reader, *family, config.max_positions);
  parse_rope_layers(reader, *family, &config);
  parse_windows(reader, *family, &config);
  parse_tokens(reader, &config);
  refuse_what_changes_the_maths(reader);
  reader.finish();
  return config;
}

std::vector<LinearInfo> block_linears(const ModelConfig& config) {
  const int64_t hidden = config.hidden, ffn = config.intermediate;
  const int64_t q = int64_t{config.heads} * config.head_dim;
  const int64_t kv = int64_t{config.kv_heads} * config.head_dim;
  return {
      {Linear::kQ, "self_attn.q_proj", hidden, q, config.qkv_bias},
      {Linear::kK, "self_attn.k_proj", hidden, kv, config.qkv_bias},
      {Linear::kV, "self_attn.v_proj", hidden, kv, config.qkv_bias},
      {Linear::kO, "self_attn.o_proj", q, hidden, config.output_bias},
      {Linear::kGate, "mlp.gate_proj", hidden, ffn, config.mlp_bias},
      {Linear::kUp, "mlp.up_proj", hidden, ffn, config.mlp_bias},
      {Linear::kDown, "mlp.down_proj", ffn, hidden, config.mlp_bias},
  };
}

std::vector<ParameterInfo> model_parameters(const ModelConfig& config) {
  std::vector<ParameterInfo> parameters;
  parameters.push_back({"model.embed_tokens.weight", {config.vocabulary, config.hidden}});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    parameters.push_back({prefix + "input_layernorm.weight", {config.hidden}});
    for (const LinearInfo& linear : block_linears(config)) {
      if (linear.linear == Linear::kGate)
        parameters.push_back({prefix + "post_attention_layernorm.weight", {config.hidden}});
      parameters.push_back({prefix + linear.path + ".weight", {linear.out, linear.in}});
      if (linear.bias) parameters.push_back({prefix + linear.path + ".bias", {linear.out}});
    }
    if (config.qk_norm) {
      parameters.push_back({prefix + "self_attn.q_norm.weight", {config.head_dim}});
      parameters.push_back({prefix + "self_attn.k_norm.weight", {config.head_dim}});
    }
  }
  parameters.push_back({"model.norm.weight", {config.hidden}});
  if (!config.tied_embeddings)
    parameters.push_back({"lm_head.weight", {config.vocabulary, config.hidden}});
  return parameters;
}

}  // namespace lowrank
