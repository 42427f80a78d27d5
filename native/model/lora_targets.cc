#include "model/lora_targets.h"

#include <algorithm>
#include <cmath>
#include <regex>
#include <set>

#include "core/error.h"

namespace lowrank {

struct NamePattern::State {
  std::regex regex;
};

NamePattern::NamePattern(const std::string& pattern, const std::string& where) : state_(new State) {
  try {
    state_->regex.assign(pattern, std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    throw Error(ErrorCode::kInvalidArgument,
                "not a valid regular expression: " + pattern + " (" + error.what() + ")", where,
                "named groups, look-behind and inline flags aren't supported");
  }
}
NamePattern::~NamePattern() = default;
NamePattern::NamePattern(NamePattern&& other) noexcept = default;

bool NamePattern::matches(const std::string& name) const {
  return std::regex_match(name, state_->regex);
}

NamePattern pattern_key(const std::string& key, const std::string& where) {
  return NamePattern("(?:.*\\.)?(?:" + key + ")", where);
}

int find_pattern_key(const std::vector<NamePattern>& keys, const std::string& name) {
  for (size_t i = 0; i < keys.size(); ++i)
    if (keys[i].matches(name)) return static_cast<int>(i);
  return -1;
}

namespace {

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

bool matches_name(const std::string& module, const std::string& target) {
  return module == target || ends_with(module, "." + target);
}

// The module that owns a parameter: the name without ".weight" or ".bias".
std::string module_of(const std::string& parameter) {
  return parameter.substr(0, parameter.find_last_of('.'));
}

std::string last_part(const std::string& name) { return name.substr(name.find_last_of('.') + 1); }

// PEFT: a module of modules_to_save, and everything inside it, gets no adapter.
bool inside_saved(const std::string& module, const std::vector<std::string>& saved) {
  const std::string dotted = "." + module + ".";
  return std::any_of(saved.begin(), saved.end(), [&](const std::string& name) {
    return dotted.find("." + name + ".") != std::string::npos;
  });
}

// Modules beside the blocks' linears, which an adapter can't be put on.
std::vector<std::string> other_modules(const ModelConfig& config) {
  using Kind = ParameterPlace::Kind;
  std::vector<std::string> names;
  for (const ParameterInfo& info : model_parameters(config)) {
    if (info.place.kind == Kind::kLinear || info.place.kind == Kind::kBias) continue;
    std::string module = module_of(info.name);
    if (names.empty() || names.back() != module) names.push_back(std::move(module));
  }
  if (config.tied_embeddings) names.push_back(module_of(config.names.head));
  return names;
}

[[noreturn]] void not_adaptable(const std::string& module) {
  throw Error(ErrorCode::kUnsupported, "an adapter on this module isn't supported", module,
              "target the linears of the blocks, and train embeddings, head and norms in full "
              "through modules_to_save");
}

std::string linear_names(const ModelConfig& config) {
  std::string names;
  const BlockParameters block = block_parameters(config);
  for (const LinearInfo& info : block.linears())
    names += (names.empty() ? "" : ", ") + last_part(info.path);
  return names;
}

// A predicate of module names.
class Targets {
 public:
  Targets(const ModelConfig& config, const LoraOptions& options)
      : options_(options), all_(is_all_linear(options)) {
    if (!options.target_pattern.empty()) {
      if (!options.target_modules.empty())
        throw Error(ErrorCode::kInvalidArgument, "target_modules and a pattern exclude each other",
                    "target_modules");
      pattern_.emplace_back(options.target_pattern, "target_modules");
    } else if (options.target_modules.empty()) {
      throw Error(ErrorCode::kInvalidArgument, "no target modules", "target_modules",
                  "use \"all-linear\", or some of: " + linear_names(config));
    }
  }

  bool match(const std::string& module) {
    const bool saved = inside_saved(module, options_.modules_to_save);
    if (!pattern_.empty()) return !saved && pattern_[0].matches(module);
    bool found = false;
    for (const std::string& target : options_.target_modules)
      if (matches_name(module, target)) {
        used_.insert(target);
        found = true;
      }
    return found && !saved;
  }
  bool all() const { return all_; }

  // A name that matches nothing is a slip of the pen; PEFT would pass over it silently.
  void check_all_used(const ModelConfig& config) const {
    if (all_ || !pattern_.empty()) return;
    for (const std::string& target : options_.target_modules)
      if (!used_.count(target))
        throw Error(ErrorCode::kInvalidArgument, "no module is called " + target, "target_modules",
                    "the linears of this model are: " + linear_names(config));
  }

 private:
  const LoraOptions& options_;
  bool all_;
  std::vector<NamePattern> pattern_;
  std::set<std::string> used_;
};

void check_numbers(const LoraOptions& options) {
  const auto invalid = [](const char* where, const char* message) {
    throw Error(ErrorCode::kInvalidArgument, message, where);
  };
  if (options.r <= 0 || options.r > 65536) invalid("r", "the rank must be 1 or more");
  if (!std::isfinite(options.lora_alpha)) invalid("lora_alpha", "must be a finite number");
  if (!(options.lora_dropout >= 0 && options.lora_dropout < 1))
    invalid("lora_dropout", "must be at least 0 and below 1");
  for (const auto& [key, rank] : options.rank_pattern)
    if (rank <= 0 || rank > 65536) invalid("rank_pattern", "ranks must be 1 or more");
  for (const auto& [key, alpha] : options.alpha_pattern)
    if (!std::isfinite(alpha)) invalid("alpha_pattern", "must be finite numbers");
}

}  // namespace

bool is_all_linear(const LoraOptions& options) {
  if (options.target_modules.size() != 1) return false;
  std::string name = options.target_modules[0];
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return name == "all-linear";
}

std::vector<LoraModule> select_lora_modules(const ModelConfig& config, const LoraOptions& options) {
  return match_lora_modules(config, options, true);
}

std::vector<LoraModule> match_lora_modules(const ModelConfig& config, const LoraOptions& options,
                                           bool strict) {
  check_numbers(options);
  Targets targets(config, options);
  std::vector<NamePattern> rank_keys, alpha_keys;
  std::vector<int32_t> ranks;
  std::vector<double> alphas;
  for (const auto& [key, rank] : options.rank_pattern) {
    rank_keys.push_back(pattern_key(key, "rank_pattern"));
    ranks.push_back(rank);
  }
  for (const auto& [key, alpha] : options.alpha_pattern) {
    alpha_keys.push_back(pattern_key(key, "alpha_pattern"));
    alphas.push_back(alpha);
  }

  std::vector<LoraModule> modules;
  const BlockParameters block = block_parameters(config);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (size_t i = 0; i < block.linears().size(); ++i) {
      const LinearInfo& info = block.linears()[i];
      LoraModule module;
      module.name = layer_prefix(config, layer) + info.path;
      const bool chosen = targets.all() ? !inside_saved(module.name, options.modules_to_save)
                                        : targets.match(module.name);
      if (!chosen) continue;
      module.layer = static_cast<int32_t>(layer);
      module.linear = i;
      module.in = info.in;
      module.out = info.out;
      const int rank_key = find_pattern_key(rank_keys, module.name);
      const int alpha_key = find_pattern_key(alpha_keys, module.name);
      module.rank = rank_key < 0 ? options.r : ranks[static_cast<size_t>(rank_key)];
      const double alpha =
          alpha_key < 0 ? options.lora_alpha : alphas[static_cast<size_t>(alpha_key)];
      const double divisor = options.use_rslora ? std::sqrt(static_cast<double>(module.rank))
                                                : static_cast<double>(module.rank);
      module.scale = static_cast<float>(alpha / divisor);
      modules.push_back(std::move(module));
    }
  }
  if (!targets.all())
    for (const std::string& module : other_modules(config))
      if (targets.match(module)) not_adaptable(module);
  if (strict) targets.check_all_used(config);
  if (modules.empty())
    throw Error(ErrorCode::kInvalidArgument, "no module matches", "target_modules",
                "the linears of this model are: " + linear_names(config));
  return modules;
}

std::vector<ParameterInfo> select_saved_modules(const ModelConfig& config,
                                                const LoraOptions& options) {
  std::vector<ParameterInfo> candidates = model_parameters(config);
  if (config.tied_embeddings) candidates.push_back(head_parameter(config));
  std::vector<ParameterInfo> chosen;
  std::set<std::string> used;
  for (ParameterInfo& info : candidates) {
    bool found = false;
    // The owning module or any module around it.
    for (std::string module = module_of(info.name);; module = module_of(module)) {
      for (const std::string& name : options.modules_to_save)
        if (!name.empty() && ends_with(module, name)) {
          used.insert(name);
          found = true;
        }
      if (module.find('.') == std::string::npos) break;
    }
    if (found) chosen.push_back(std::move(info));
  }
  for (const std::string& name : options.modules_to_save)
    if (!used.count(name))
      throw Error(ErrorCode::kInvalidArgument, "no module is called " + name, "modules_to_save",
                  "for example " + last_part(module_of(config.names.head)) + ", " +
                      last_part(module_of(config.names.embedding)) + " or " +
                      last_part(module_of(config.names.final_norm)));
  return chosen;
}

}  // namespace lowrank
