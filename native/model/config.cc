#include "model/config.h"

#include "core/error.h"
#include "io/json.h"
#include "model/config_reader.h"
#include "model/families/families.h"

namespace lowrank {

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
  family->read(reader, &config);
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
