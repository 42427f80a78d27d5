// PEFT's rules for which modules an adapter touches (check_target_module_exists, get_pattern_key
// and _set_trainable of peft 0.21), over the names of a model's modules.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/adapter.h"

namespace lowrank {

// A Python-style regular expression that must match a whole name. Throws Error{kInvalidArgument}
// for one that isn't valid; ECMAScript's grammar, which agrees with Python's on what names need.
class NamePattern {
 public:
  explicit NamePattern(const std::string& pattern, const std::string& where);
  ~NamePattern();
  NamePattern(NamePattern&&) noexcept;
  bool matches(const std::string& name) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The first key that matches the end of `name` at a dot or the whole name, as a regular expression;
// -1 = none.
int find_pattern_key(const std::vector<NamePattern>& keys, const std::string& name);
// The form in which a rank_pattern or alpha_pattern key is matched.
NamePattern pattern_key(const std::string& key, const std::string& where);

bool is_all_linear(const LoraOptions& options);

// select_lora_modules(); without `strict`, as in PEFT, a name that matches nothing is passed over
// as long as another one matches.
std::vector<LoraModule> match_lora_modules(const ModelConfig& config, const LoraOptions& options,
                                           bool strict);

}  // namespace lowrank
