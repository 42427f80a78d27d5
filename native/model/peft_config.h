// PEFT's adapter_config.json for LoRA: reading what this engine can honour, refusing the rest by
// name, and writing the file as peft 0.21 does.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "model/adapter.h"

namespace lowrank {

struct PeftConfig {
  LoraOptions options;
  // The patterns in the file's order: of two keys that match a module the first one counts.
  std::vector<std::pair<std::string, int32_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  // exclude_modules or layers_to_transform narrow target_modules: only the tensors in the file say
  // which modules there are.
  bool narrowed = false;
};

// Throws Error{kInvalidFile} or Error{kUnsupported} with the key as the place.
PeftConfig parse_peft_config(const std::string& text, const std::string& where);

std::string write_peft_config(const AdapterImpl& adapter, const std::string& base_model_name);

}  // namespace lowrank
