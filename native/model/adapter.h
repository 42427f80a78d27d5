// A LoRA adapter on a device: A and B of every adapted linear, and modules trained in full.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine_types.h"
#include "model/weights.h"

namespace lowrank {

struct LoraModule {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  int32_t layer = 0;
  size_t linear = 0;  // its place in BlockParameters
  int64_t in = 0, out = 0;
  int32_t rank = 0;
  float scale = 0;  // alpha / r, or alpha / sqrt(r) with rsLoRA
  Buffer a, b;      // f32 [rank, in], [out, rank]
};

// A whole module trained in place of the base's (modules_to_save), f32 master values.
struct SavedModule {
  ParameterInfo parameter;
  Buffer value;
};

class AdapterImpl {
 public:
  std::shared_ptr<ModelImpl> model;
  LoraOptions options;
  std::vector<LoraModule> modules;  // by layer, then in the order of the linears
  std::vector<SavedModule> saved;

  // The module on this linear, or null.
  const LoraModule* find(int32_t layer, size_t linear) const;
  // The full replacement of this parameter, or null.
  const SavedModule* find_saved(const std::string& name) const;
  int32_t max_rank() const;
};

// Which linears `options` selects, as PEFT does: a name matches the whole module name or its end
// after a dot; "all-linear" takes every linear of the blocks; the pattern must match the whole
// name. Throws Error{kInvalidArgument} when nothing matches. No weights needed.
std::vector<LoraModule> select_lora_modules(const ModelConfig& config, const LoraOptions& options);

// The parameters that modules_to_save trains in full, by their Hugging Face names, in the order of
// model_parameters(). As in PEFT a name matches every module whose name ends with it, dot or not:
// "norm" takes all norms. A tied head that is named becomes a parameter of its own. Throws
// Error{kInvalidArgument} for a name that matches nothing.
std::vector<ParameterInfo> select_saved_modules(const ModelConfig& config,
                                                const LoraOptions& options);

// What Adapter::create, load and save of engine.h do; the same arguments and errors.
std::shared_ptr<AdapterImpl> create_adapter(std::shared_ptr<ModelImpl> model,
                                            const LoraOptions& options, uint64_t seed);
std::shared_ptr<AdapterImpl> load_adapter(std::shared_ptr<ModelImpl> model,
                                          const std::string& folder);
void save_adapter(const AdapterImpl& adapter, const std::string& folder,
                  const std::string& base_model_name);

}  // namespace lowrank
