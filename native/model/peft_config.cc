#include "model/peft_config.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "io/json.h"
#include "model/lora_targets.h"

namespace lowrank {
namespace {

// Version of PEFT whose file format is written.
constexpr const char* kPeftVersion = "0.21.0";

// Keys that say nothing about how a finished adapter computes.
const std::set<std::string>& inert_keys() {
  static const std::set<std::string> keys = {
      "auto_mapping",  "base_model_name_or_path", "corda_config",
      "eva_config",    "inference_mode",          "layers_pattern",
      "loftq_config",  "lora_ga_config",          "megatron_core",
      "peft_version",  "qalora_group_size",       "revision",
      "runtime_config"};
  return keys;
}

bool is_off(const Json& value, const std::string& where) {
  switch (value.type()) {
    case Json::Type::kNull:
      return true;
    case Json::Type::kBool:
      return !value.as_bool(where);
    case Json::Type::kString:
      return value.as_string(where).empty() || value.as_string(where) == "none";
    case Json::Type::kArray:
      return value.as_array(where).empty();
    case Json::Type::kObject:
      return value.as_object(where).empty();
    default:
      return false;
  }
}

std::vector<std::string> string_list(const Json& value, const std::string& where) {
  std::vector<std::string> list;
  for (const Json& item : value.as_array(where)) list.push_back(item.as_string(where));
  return list;
}

int32_t rank_of(const Json& value, const std::string& where) {
  const int64_t rank = value.as_integer(where);
  if (rank <= 0 || rank > 65536)
    throw Error(ErrorCode::kInvalidFile, "the rank must be between 1 and 65536", where);
  return static_cast<int32_t>(rank);
}

void check_kind(const Json& json, const std::string& where) {
  const Json* type = json.find("peft_type");
  if (!type) {
    if (json.find("fine_tune_type"))
      throw Error(ErrorCode::kUnsupported, "this is an mlx-lm adapter, not a PEFT one", where,
                  "convert it to PEFT first: lora_a and lora_b transposed, lora_alpha = scale * "
                  "rank");
    if (json.find("config") && json.find("version"))
      throw Error(ErrorCode::kUnsupported, "this is an AdapterHub adapter, not a PEFT one", where);
    throw Error(ErrorCode::kInvalidFile, "peft_type is missing", where,
                "point to a folder that PEFT or this library wrote");
  }
  const std::string& name = type->as_string(where + ": peft_type");
  if (name != "LORA")
    throw Error(ErrorCode::kUnsupported, "adapters of type " + name + " aren't supported",
                where + ": peft_type", "only LORA is");
}

// These change the base model's weights before training, so the adapter alone isn't the result.
void check_initialization(const Json& value, const std::string& where) {
  if (!value.is_string()) return;
  const std::string& name = value.as_string(where);
  if (name == "gaussian" || name == "eva" || name == "orthogonal") return;
  throw Error(ErrorCode::kUnsupported,
              "adapters initialised by " + name + " belong to a base model that it changed", where,
              "convert the adapter to a plain one with PEFT's "
              "path_initial_model_for_weight_conversion");
}

void check_task(const Json& value, const std::string& where) {
  if (value.is_null() || value.as_string(where) == "CAUSAL_LM") return;
  throw Error(ErrorCode::kUnsupported, "adapters for " + value.as_string(where), where,
              "only CAUSAL_LM is supported");
}

void parse_targets(const Json& value, const std::string& where, LoraOptions* options) {
  if (value.is_string()) {
    options->target_modules = {value.as_string(where)};
    if (is_all_linear(*options)) return;
    options->target_modules.clear();
    options->target_pattern = value.as_string(where);
    return;
  }
  options->target_modules = string_list(value, where);
  std::sort(options->target_modules.begin(), options->target_modules.end());
}

// False when the key isn't one of those that are honoured.
bool parse_key(const std::string& key, const Json& value, const std::string& where,
               PeftConfig* config) {
  LoraOptions& options = config->options;
  if (key == "r") {
    options.r = rank_of(value, where);
  } else if (key == "lora_alpha") {
    options.lora_alpha = value.as_number(where);
  } else if (key == "lora_dropout") {
    options.lora_dropout = value.as_number(where);
  } else if (key == "use_rslora") {
    options.use_rslora = !value.is_null() && value.as_bool(where);
  } else if (key == "target_modules") {
    parse_targets(value, where, &options);
  } else if (key == "modules_to_save") {
    if (!value.is_null()) options.modules_to_save = string_list(value, where);
  } else if (key == "rank_pattern") {
    if (value.is_null()) return true;
    for (const auto& [name, rank] : value.as_object(where)) {
      config->rank_pattern.emplace_back(name, rank_of(rank, where + "." + name));
      options.rank_pattern[name] = config->rank_pattern.back().second;
    }
  } else if (key == "alpha_pattern") {
    if (value.is_null()) return true;
    for (const auto& [name, alpha] : value.as_object(where)) {
      config->alpha_pattern.emplace_back(name, alpha.as_number(where + "." + name));
      options.alpha_pattern[name] = config->alpha_pattern.back().second;
    }
  } else if (key == "exclude_modules" || key == "layers_to_transform") {
    if (!is_off(value, where)) config->narrowed = true;
  } else if (key == "init_lora_weights") {
    check_initialization(value, where);
  } else if (key == "task_type") {
    check_task(value, where);
  } else if (key != "peft_type" && !inert_keys().count(key)) {
    return false;
  }
  return true;
}

Json string_array(const std::vector<std::string>& list) {
  Json array = Json::array();
  for (const std::string& item : list) array.push(Json(item));
  return array;
}

Json target_modules(const AdapterImpl& adapter) {
  const LoraOptions& options = adapter.options;
  if (!options.target_pattern.empty()) return Json(options.target_pattern);
  if (!is_all_linear(options)) return string_array(options.target_modules);
  // PEFT writes "all-linear" out. With every linear adapted their last names say the same.
  std::vector<std::string> names;
  for (const LoraModule& module : adapter.modules) {
    std::string name = module.name.substr(module.name.find_last_of('.') + 1);
    if (std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(std::move(name));
  }
  return string_array(names);
}

}  // namespace

PeftConfig parse_peft_config(const std::string& text, const std::string& where) {
  const Json json = Json::parse(text, where);
  json.as_object(where);
  check_kind(json, where);
  PeftConfig config;
  for (const auto& [key, value] : json.as_object(where)) {
    const std::string place = where + ": " + key;
    if (parse_key(key, value, place, &config) || is_off(value, place)) continue;
    throw Error(ErrorCode::kUnsupported, "this setting isn't supported and may change the maths",
                place, "use an adapter without " + key);
  }
  if (config.options.target_modules.empty() && config.options.target_pattern.empty())
    throw Error(ErrorCode::kInvalidFile, "target_modules is missing", where);
  return config;
}

std::string write_peft_config(const AdapterImpl& adapter, const std::string& base_model_name) {
  const LoraOptions& options = adapter.options;
  Json ranks = Json::object(), alphas = Json::object();
  for (const auto& [key, rank] : options.rank_pattern) ranks.set(key, Json(int64_t{rank}));
  for (const auto& [key, alpha] : options.alpha_pattern) alphas.set(key, Json(alpha));
  // An integer stays one, as PEFT's own files have it.
  const double alpha = options.lora_alpha;
  const bool integral = alpha == static_cast<double>(static_cast<int64_t>(alpha));

  Json json = Json::object();
  json.set("alora_invocation_tokens", Json())
      .set("alpha_pattern", std::move(alphas))
      .set("arrow_config", Json())
      .set("auto_mapping", Json())
      .set("base_model_name_or_path", Json(base_model_name))
      .set("bias", Json("none"))
      .set("corda_config", Json())
      .set("ensure_weight_tying", Json(false))
      .set("eva_config", Json())
      .set("exclude_modules", Json())
      .set("fan_in_fan_out", Json(false))
      .set("inference_mode", Json(true))
      .set("init_lora_weights", Json(true))
      .set("kasa_config", Json())
      .set("layer_replication", Json())
      .set("layers_pattern", Json())
      .set("layers_to_transform", Json())
      .set("loftq_config", Json::object())
      .set("lora_alpha", integral ? Json(static_cast<int64_t>(alpha)) : Json(alpha))
      .set("lora_bias", Json(false))
      .set("lora_dropout", Json(options.lora_dropout))
      .set("lora_ga_config", Json())
      .set("megatron_config", Json())
      .set("megatron_core", Json("megatron.core"))
      .set("modules_to_save",
           options.modules_to_save.empty() ? Json() : string_array(options.modules_to_save))
      .set("monteclora_config", Json())
      .set("peft_type", Json("LORA"))
      .set("peft_version", Json(kPeftVersion))
      .set("qalora_group_size", Json(16))
      .set("r", Json(int64_t{options.r}))
      .set("rank_pattern", std::move(ranks))
      .set("revision", Json())
      .set("target_modules", target_modules(adapter))
      .set("target_parameters", Json())
      .set("task_type", Json("CAUSAL_LM"))
      .set("trainable_token_indices", Json())
      .set("use_bdlora", Json())
      .set("use_dora", Json(false))
      .set("use_qalora", Json(false))
      .set("use_rslora", Json(options.use_rslora))
      .set("velora_config", Json());
  return json.dump(2) + "\n";
}

}  // namespace lowrank
