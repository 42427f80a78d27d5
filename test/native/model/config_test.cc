// config.json: what is read, what defaults to what, and what is refused by name.
#include "model/parameters.h"

#include <algorithm>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"
#include "model/families/families.h"
#include "support/golden_model.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

// The smallest file of a family, with fields added or replaced: {"name", value as JSON}.
using Fields = std::vector<std::pair<std::string, std::string>>;

ModelConfig parse(const std::string& family, const Fields& fields = {}) {
  Json json = Json::parse(R"({"vocab_size":100,"hidden_size":64,"intermediate_size":96,)"
                          R"("num_hidden_layers":4,"num_attention_heads":32})",
                          "base");
  json.set("model_type", family);
  for (const auto& [name, value] : fields) json.set(name, Json::parse(value, name));
  return parse_model_config(json.dump(), "config.json");
}

struct Refused {
  const char* family;
  Fields fields;
  ErrorCode code;
  const char* place;
};

}  // namespace

TEST(refuses_by_name_what_would_change_the_maths) {
  const ErrorCode invalid = ErrorCode::kInvalidFile, unsupported = ErrorCode::kUnsupported;
  const Refused table[] = {
      {"bert", {}, unsupported, "model_type"},
      {"llama", {{"hidden_size", "null"}}, invalid, "hidden_size"},
      {"llama", {{"hidden_size", "-4"}}, invalid, "hidden_size"},
      {"llama", {{"hidden_size", "\"64\""}}, invalid, "hidden_size"},
      {"llama", {{"vocab_size", "99999999999"}}, invalid, "vocab_size"},
      {"llama", {{"num_key_value_heads", "5"}}, invalid, "num_key_value_heads"},
      {"llama", {{"head_dim", "7"}}, invalid, "head_dim"},
      {"llama", {{"num_attention_heads", "128"}}, invalid, "head_dim"},
      {"llama", {{"hidden_act", "\"quick_gelu\""}}, unsupported, "hidden_act"},
      {"llama", {{"attention_dropout", "0.1"}}, unsupported, "attention_dropout"},
      {"llama", {{"pretraining_tp", "2"}}, unsupported, "pretraining_tp"},
      {"llama", {{"partial_rotary_factor", "0.5"}}, unsupported, "partial_rotary_factor"},
      {"llama", {{"sliding_window", "128"}}, unsupported, "sliding_window"},
      {"llama", {{"dtype", "\"float8_e4m3fn\""}}, unsupported, "dtype"},
      {"llama", {{"logit_scale", "0.5"}}, unsupported, "logit_scale"},
      {"llama", {{"embedding_multiplier", "12"}}, unsupported, "embedding_multiplier"},
      {"llama", {{"final_logit_softcapping", "30.0"}}, unsupported, "final_logit_softcapping"},
      {"llama", {{"num_local_experts", "8"}}, unsupported, "num_local_experts"},
      {"llama", {{"quantization_config", R"({"quant_method":"gptq"})"}}, unsupported, "gptq"},
      {"llama",
       {{"rope_scaling", R"({"type":"longrope","factor":2.0})"}},
       unsupported,
       "rope_type"},
      {"llama", {{"rope_scaling", R"({"type":"linear"})"}}, invalid, "factor"},
      {"llama", {{"rope_scaling", R"({"type":"linear","factor":0})"}}, invalid, "factor"},
      {"llama",
       {{"rope_parameters", R"({"rope_type":"llama3","factor":8,"high_freq_factor":4})"}},
       invalid,
       "low_freq_factor"},
      {"llama",
       {{"rope_parameters", R"({"rope_type":"default","short_factor":[1.5]})"}},
       unsupported,
       "short_factor"},
      {"llama",
       {{"rope_parameters", R"({"full_attention":{"rope_type":"default"}})"}},
       unsupported,
       "full_attention"},
      {"llama", {{"original_max_position_embeddings", "64"}}, unsupported, "original_max"},
      {"mistral", {{"attention_bias", "true"}}, unsupported, "attention_bias"},
      {"mistral",
       {{"layer_types",
         R"(["full_attention","sliding_attention","full_attention","sliding_attention"])"}},
       unsupported,
       "layer_types"},
      {"qwen2", {{"layer_types", R"(["full_attention"])"}}, invalid, "layer_types"},
      {"qwen2",
       {{"layer_types",
         R"(["full_attention","full_attention","full_attention","sliding_attention"])"}},
       invalid,
       "layer_types"},
      {"qwen3", {{"mlp_bias", "true"}}, unsupported, "mlp_bias"},
      {"smollm3", {{"no_rope_layers", "[1,0]"}}, invalid, "no_rope_layers"},
  };
  for (const Refused& one : table) CHECK_ERROR(parse(one.family, one.fields), one.code, one.place);
  CHECK_ERROR(parse_model_config("[]", "config.json"), invalid, "config.json");
  CHECK_ERROR(parse_model_config("{\"model_type\": ", "config.json"), invalid, "config.json");
}

TEST(unknown_fields_that_are_off_are_accepted) {
  parse("llama", {{"some_new_scale", "null"},
                  {"use_something", "false"},
                  {"list_of_things", "[]"},
                  {"_name_or_path", "\"x\""},
                  {"attention_bias", "false"},
                  {"partial_rotary_factor", "1.0"}});
}

TEST(missing_fields_default_as_in_transformers) {
  const ModelConfig llama = parse("llama");
  CHECK_EQ(llama.kv_heads, 32);
  CHECK_EQ(llama.head_dim, 2);
  CHECK_EQ(llama.max_positions, 2048);
  CHECK_EQ(llama.rope.theta, 10000.0);
  CHECK_EQ(llama.rms_norm_eps, 1e-6f);
  CHECK(!llama.tied_embeddings && !llama.qkv_bias && !llama.mlp_bias && !llama.qk_norm);
  CHECK_EQ(llama.layer_window[0], 0);

  const ModelConfig mistral = parse("mistral");
  CHECK_EQ(mistral.kv_heads, 8);
  CHECK_EQ(mistral.max_positions, 131072);
  CHECK_EQ(mistral.layer_window[3], 4096);
  CHECK_EQ(parse("mistral", {{"sliding_window", "null"}}).layer_window[3], 0);
  CHECK_EQ(parse("mistral", {{"num_key_value_heads", "null"}}).kv_heads, 32);

  const ModelConfig qwen2 = parse("qwen2");
  CHECK(qwen2.qkv_bias && !qwen2.output_bias);
  CHECK_EQ(qwen2.kv_heads, 32);
  CHECK_EQ(qwen2.layer_window[3], 0);
  CHECK_EQ(qwen2.max_positions, 32768);

  const ModelConfig qwen3 = parse("qwen3");
  CHECK_EQ(qwen3.head_dim, 128);
  CHECK(qwen3.qk_norm && !qwen3.qkv_bias);

  const ModelConfig smollm3 = parse("smollm3");
  CHECK_EQ(smollm3.kv_heads, 4);
  CHECK(smollm3.tied_embeddings);
  CHECK_EQ(smollm3.rope.theta, 2000000.0);
  CHECK(smollm3.layer_uses_rope == std::vector<uint8_t>({1, 1, 1, 0}));
}

TEST(sliding_windows_by_layer) {
  const Fields upper = {
      {"use_sliding_window", "true"}, {"sliding_window", "16"}, {"max_window_layers", "3"}};
  CHECK(parse("qwen2", upper).layer_window == std::vector<int32_t>({0, 0, 0, 16}));
  CHECK(parse("qwen2", {{"sliding_window", "16"}, {"max_window_layers", "0"}}).layer_window ==
        std::vector<int32_t>({0, 0, 0, 0}));
  Fields listed = upper;
  listed.push_back(
      {"layer_types",
       R"(["sliding_attention","full_attention","sliding_attention","full_attention"])"});
  CHECK(parse("qwen3", listed).layer_window == std::vector<int32_t>({16, 0, 16, 0}));
  CHECK(parse("smollm3", {{"use_sliding_window", "true"}, {"sliding_window", "8"}}).layer_window ==
        std::vector<int32_t>({0, 0, 0, 8}));
}

TEST(rope_of_both_layouts) {
  const char* old_llama3 =
      R"({"rope_type":"llama3","factor":32.0,"low_freq_factor":1.0,"high_freq_factor":4.0,)"
      R"("original_max_position_embeddings":8192})";
  const char* new_llama3 =
      R"({"rope_type":"llama3","rope_theta":500000.0,"factor":32.0,"low_freq_factor":1.0,)"
      R"("high_freq_factor":4.0,"original_max_position_embeddings":8192})";
  for (const ModelConfig& config :
       {parse("llama", {{"rope_theta", "500000.0"}, {"rope_scaling", old_llama3}}),
        parse("llama", {{"rope_parameters", new_llama3}})}) {
    CHECK(config.rope.type == RopeType::kLlama3);
    CHECK_EQ(config.rope.theta, 500000.0);
    CHECK_EQ(config.rope.factor, 32.0);
    CHECK_EQ(config.rope.original_max_positions, 8192.0);
  }
  // Both: the old one, as transformers reads it.
  const ModelConfig both =
      parse("llama", {{"rope_parameters", R"({"rope_type":"default","rope_theta":5.0})"},
                      {"rope_scaling", R"({"type":"linear","factor":2.0})"}});
  CHECK(both.rope.type == RopeType::kLinear);
  CHECK_EQ(both.rope.theta, 10000.0);
  const ModelConfig yarn = parse(
      "llama",
      {{"max_position_embeddings", "64"},
       {"rope_scaling", R"({"type":"yarn","factor":null,"original_max_position_embeddings":16})"}});
  CHECK_EQ(yarn.rope.factor, 4.0);
}

TEST(dtypes_and_tokens) {
  CHECK(parse("llama").dtype == DType::kF32);
  CHECK(parse("llama", {{"torch_dtype", "\"bfloat16\""}}).dtype == DType::kBF16);
  CHECK(parse("llama", {{"dtype", "\"float16\""}}).dtype == DType::kF16);
  CHECK(parse("llama", {{"eos_token_id", "[2, 7]"}}).eos_token_ids == std::vector<int32_t>({2, 7}));
  CHECK(parse("llama", {{"eos_token_id", "3"}}).eos_token_ids == std::vector<int32_t>({3}));
  CHECK_EQ(parse("llama", {{"pad_token_id", "null"}}).pad_token_id, -1);
}

TEST(golden_files_of_every_family_are_read) {
  std::vector<std::string> seen;
  for (const std::string& name : golden_models()) {
    const std::string file = golden_folder(name) + "/config.json";
    const ModelConfig config = parse_model_config(read_text_file(file), file);
    seen.push_back(config.family);
    const SafetensorsFile weights(golden_folder(name) + "/model.safetensors");
    // The parameters that follow from the configuration are those of the file, shape by shape.
    const std::vector<ParameterInfo> parameters = model_parameters(config);
    CHECK_EQ(parameters.size(), weights.tensors().size());
    for (const ParameterInfo& parameter : parameters) {
      const TensorView* tensor = weights.find(parameter.name);
      CHECK(tensor && tensor->shape == parameter.shape);
    }
  }
  for (const std::string& family : family_names())
    CHECK(std::find(seen.begin(), seen.end(), family) != seen.end());
}

}  // namespace lowrank::test
