#include "model/adapter.h"

#include "model/forward_logits.h"
#include "model/model_files.h"

namespace lowrank {
namespace {

using namespace lowrank::test;

std::shared_ptr<ModelImpl> golden_model(const std::string& name = "model") {
  return load_model(cpu(), golden(name), {}, {}, nullptr);
}

std::vector<float> buffer_values(const Buffer& buffer) {
  const auto* data = buffer.as<const float>();
  return {data, data + buffer.bytes() / sizeof(float)};
}

ModelConfig config() { return parse_model_config(tiny_config(), "config.json"); }

std::vector<std::string> names(const LoraOptions& options) {
  std::vector<std::string> all;
  for (const LoraModule& module : select_lora_modules(config(), options))
    all.push_back(module.name);
  return all;
}

LoraOptions targets(std::vector<std::string> modules) {
  LoraOptions options;
  options.target_modules = std::move(modules);
  return options;
}

TEST(peft_adapters_give_pefts_logits) {
  for (const char* name : {"plain", "all_linear", "patterns", "narrowed", "saved", "tied_saved"}) {
    const auto model = golden_model(std::string(name) == "tied_saved" ? "tied_model" : "model");
    const auto adapter = load_adapter(model, golden(name));
    const SafetensorsFile expected(golden(std::string(name) + "/expected.safetensors"));
    const TensorView& ids = expected.at("input_ids");
    std::vector<int32_t> tokens(static_cast<size_t>(ids.count()));
    std::memcpy(tokens.data(), ids.data, ids.bytes);
    const std::vector<float> logits = forward_logits(model, adapter, tokens.data(), ids.count());
    const std::vector<float> plain = forward_logits(model, nullptr, tokens.data(), ids.count());
    const std::vector<float> wanted = tensor_floats(expected.at("logits"));
    double scale = 0;
    for (const float value : wanted) scale = std::max(scale, std::abs(static_cast<double>(value)));
    // Two f32 evaluations of 2 layers: sums of at most 40 terms each, some hundred roundings.
    CHECK_NEAR(largest_difference(logits, wanted), 0, 200 * 0x1p-24 * scale);
    CHECK(largest_difference(plain, wanted) > 0.01 * scale);  // the adapter matters
  }
}

TEST(saving_keeps_every_bit_and_the_meaning) {
  const TemporaryFolder folder;
  for (const char* name : {"plain", "all_linear", "patterns", "narrowed", "saved", "tied_saved"}) {
    const auto model = golden_model(std::string(name) == "tied_saved" ? "tied_model" : "model");
    const auto first = load_adapter(model, golden(name));
    save_adapter(*first, folder / name, "some/base");
    const auto second = load_adapter(model, folder / name);
    CHECK_EQ(first->modules.size(), second->modules.size());
    for (size_t i = 0; i < first->modules.size(); ++i) {
      CHECK_EQ(first->modules[i].name, second->modules[i].name);
      CHECK_EQ(first->modules[i].scale, second->modules[i].scale);
      CHECK(buffer_values(first->modules[i].a) == buffer_values(second->modules[i].a));
      CHECK(buffer_values(first->modules[i].b) == buffer_values(second->modules[i].b));
    }
    CHECK_EQ(first->saved.size(), second->saved.size());
    for (size_t i = 0; i < first->saved.size(); ++i)
      CHECK(buffer_values(first->saved[i].value) == buffer_values(second->saved[i].value));
    // The same tensors under the same names as PEFT wrote.
    const SafetensorsFile theirs(golden(std::string(name) + "/adapter_model.safetensors"));
    const SafetensorsFile ours(folder / (std::string(name) + "/adapter_model.safetensors"));
    CHECK_EQ(theirs.tensors().size(), ours.tensors().size());
    for (const TensorView& tensor : theirs.tensors())
      CHECK(tensor_floats(tensor) == tensor_floats(ours.at(tensor.name)));
    // And the same keys in its configuration.
    const Json a =
        Json::parse(read_text_file(golden(std::string(name) + "/adapter_config.json")), "");
    const Json b =
        Json::parse(read_text_file(folder / (std::string(name) + "/adapter_config.json")), "");
    for (const auto& [key, value] : a.as_object("")) CHECK(b.find(key) != nullptr);
    CHECK_EQ(a.as_object("").size(), b.as_object("").size());
    CHECK_EQ(b.find("base_model_name_or_path")->as_string(""), "some/base");
  }
}

TEST(create_starts_from_pefts_distribution) {
  const auto model = golden_model();
  LoraOptions options = targets({"all-linear"});
  options.modules_to_save = {"lm_head", "embed_tokens"};
  const auto adapter = create_adapter(model, options, 7);
  CHECK_EQ(adapter->modules.size(), size_t{14});
  for (const LoraModule& module : adapter->modules) {
    const float bound = 1.0f / std::sqrt(static_cast<float>(module.in));
    float largest = 0;
    for (const float value : buffer_values(module.a)) {
      CHECK(std::abs(value) <= bound);
      largest = std::max(largest, std::abs(value));
    }
    CHECK(largest > 0.8f * bound);
    for (const float value : buffer_values(module.b)) CHECK_EQ(value, 0.0f);
    CHECK_EQ(module.scale, 1.0f);
  }
  CHECK(buffer_values(adapter->find_saved("lm_head.weight")->value) ==
        values_of(*model, "lm_head.weight"));
  CHECK(buffer_values(create_adapter(model, options, 7)->modules[3].a) ==
        buffer_values(adapter->modules[3].a));
  CHECK(buffer_values(create_adapter(model, options, 8)->modules[3].a) !=
        buffer_values(adapter->modules[3].a));
  const std::vector<int32_t> ids = {1, 2, 3};
  CHECK(forward_logits(model, adapter, ids.data(), 3) ==
        forward_logits(model, nullptr, ids.data(), 3));
}

TEST(names_match_as_in_peft) {
  CHECK_EQ(names(targets({"all-linear"})).size(), size_t{14});
  CHECK_EQ(names(targets({"All-Linear"})).size(), size_t{14});
  CHECK(names(targets({"q_proj"})) ==
        (std::vector<std::string>{"model.layers.0.self_attn.q_proj",
                                  "model.layers.1.self_attn.q_proj"}));
  CHECK(names(targets({"1.mlp.up_proj"})) ==
        std::vector<std::string>{"model.layers.1.mlp.up_proj"});
  CHECK_ERROR(names(targets({"proj"})), ErrorCode::kInvalidArgument, "no module is called proj");
  CHECK_ERROR(names(targets({"q_proj", "qproj"})), ErrorCode::kInvalidArgument, "qproj");
  CHECK_ERROR(names(targets({})), ErrorCode::kInvalidArgument, "q_proj, k_proj");
  CHECK_ERROR(names(targets({"q_proj", "lm_head"})), ErrorCode::kUnsupported, "lm_head");
  CHECK_ERROR(names(targets({"embed_tokens"})), ErrorCode::kUnsupported, "embed_tokens");

  LoraOptions pattern;
  pattern.target_pattern = R"(model\.layers\.[01]\.mlp\.(up|down)_proj)";
  CHECK_EQ(names(pattern).size(), size_t{4});
  pattern.target_pattern = "up_proj";  // the whole name must match
  CHECK_ERROR(names(pattern), ErrorCode::kInvalidArgument, "no module matches");
  pattern.target_pattern = "(";
  CHECK_ERROR(names(pattern), ErrorCode::kInvalidArgument, "regular expression");

  LoraOptions saved = targets({"q_proj", "v_proj"});
  saved.modules_to_save = {"v_proj"};  // trained in full, so it gets no adapter
  CHECK_EQ(names(saved).size(), size_t{2});
}

TEST(patterns_set_rank_and_scale) {
  LoraOptions options = targets({"q_proj", "down_proj"});
  options.r = 4;
  options.lora_alpha = 8;
  options.rank_pattern = {{"1.self_attn.q_proj", 16}};
  options.alpha_pattern = {{"down_proj", 2}};
  options.use_rslora = true;
  const auto modules = select_lora_modules(config(), options);
  CHECK_EQ(modules[0].rank, 4);
  CHECK_EQ(modules[0].scale, 4.0f);  // 8 / sqrt 4
  CHECK_EQ(modules[1].scale, 1.0f);  // 2 / sqrt 4
  CHECK_EQ(modules[2].rank, 16);
  CHECK_EQ(modules[2].scale, 2.0f);  // 8 / sqrt 16
  options.r = 0;
  CHECK_ERROR(select_lora_modules(config(), options), ErrorCode::kInvalidArgument, "r");
}

TEST(saved_modules_match_as_in_peft) {
  LoraOptions options = targets({"q_proj"});
  const auto count = [&](const char* name) {
    options.modules_to_save = {name};
    return select_saved_modules(config(), options).size();
  };
  CHECK_EQ(count("lm_head"), size_t{1});
  CHECK_EQ(count("embed_tokens"), size_t{1});
  CHECK_EQ(count("norm"), size_t{5});  // any module whose name ends so
  CHECK_EQ(count("model.norm"), size_t{1});
  CHECK_EQ(count("layers.1.mlp"), size_t{3});
  CHECK_ERROR(count("score"), ErrorCode::kInvalidArgument, "score");
  const ModelConfig tied = parse_model_config(tiny_config("float32", true), "config.json");
  options.modules_to_save = {"lm_head"};
  CHECK_EQ(select_saved_modules(tied, options)[0].name, "lm_head.weight");
}

TEST(settings_that_change_the_maths_are_refused_by_name) {
  const TemporaryFolder folder;
  const auto model = golden_model();
  const auto check = [&](const char* key, Json value) {
    copy_folder(golden("plain"), folder / "a");
    edit_json(folder / "a/adapter_config.json", key, std::move(value));
    CHECK_ERROR(load_adapter(model, folder / "a"), ErrorCode::kUnsupported, key);
  };
  check("use_dora", Json(true));
  check("lora_bias", Json(true));
  check("bias", Json("all"));
  check("fan_in_fan_out", Json(true));
  check("peft_type", Json("IA3"));
  check("task_type", Json("SEQ_CLS"));
  check("init_lora_weights", Json("pissa"));
  check("trainable_token_indices", Json::array().push(Json(1)));
  check("layer_replication", Json::array().push(Json(1)));
  check("some_future_setting", Json(0.5));
  copy_folder(golden("plain"), folder / "a");
  write_text_file(folder / "a/adapter_config.json", R"({"fine_tune_type":"lora"})");
  CHECK_ERROR(load_adapter(model, folder / "a"), ErrorCode::kUnsupported, "mlx-lm");
}

TEST(adapters_that_dont_fit_are_refused) {
  const TemporaryFolder folder;
  const auto model = golden_model();
  const std::string path = folder / "a", file = path + "/adapter_model.safetensors";
  const std::string a = "base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight";
  const std::string b = "base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight";
  CHECK_ERROR(load_adapter(create_model(cpu(), tiny_config(), {}, 1), golden("plain")),
              ErrorCode::kInvalidFile, "the shape [4, 16], expected [4, 64]");
  copy_folder(golden("plain"), path);
  edit_json(path + "/adapter_config.json", "r", Json(8));
  CHECK_ERROR(load_adapter(model, path), ErrorCode::kInvalidFile, "expected [8, 16]");
  copy_folder(golden("plain"), path);
  rewrite(file, a);
  CHECK_ERROR(load_adapter(model, path), ErrorCode::kInvalidFile, a);
  rewrite(file, b);  // both gone: the module is missing altogether
  CHECK_ERROR(load_adapter(model, path), ErrorCode::kInvalidFile, a);
  copy_folder(golden("plain"), path);
  rewrite(file, "", "base_model.model.model.layers.7.mlp.up_proj.lora_A.weight");
  CHECK_ERROR(load_adapter(model, path), ErrorCode::kUnsupported, "layers.7");
  copy_folder(golden("saved"), path);
  rewrite(file, "base_model.model.lm_head.weight");
  CHECK_ERROR(load_adapter(model, path), ErrorCode::kInvalidFile, "lm_head.weight is missing");
  const std::string bytes = read_text_file(file);
  write_text_file(file, bytes.substr(0, bytes.size() / 2));
  CHECK_ERROR(load_adapter(model, path), ErrorCode::kInvalidFile, "truncated");
  std::filesystem::remove(file);
  CHECK_ERROR(load_adapter(model, path), ErrorCode::kInvalidFile, "no adapter_model.safetensors");
  CHECK_ERROR(load_adapter(model, folder / "none"), ErrorCode::kInvalidFile,
              "no adapter_config.json");
}

}  // namespace
}  // namespace lowrank
