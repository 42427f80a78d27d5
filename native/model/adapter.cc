#include "model/adapter.h"

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "model/place_weights.h"

namespace lowrank {
namespace {

// f32 values of a parameter of the base model, on the device.
Buffer copy_parameter(ModelImpl& model, const ParameterInfo& parameter) {
  int64_t count = 1;
  for (const int64_t extent : parameter.shape) count *= extent;
  Buffer value(model.device, static_cast<size_t>(count) * sizeof(float));
  const ModelImpl::Named named = model.find(parameter);
  const Device& device = *model.device;
  if (named.matrix)
    weight_to_f32(device, named.matrix->view, value.as<float>());
  else
    device.check(
        device.backend().copy(device.handle(), value.data(), named.vector->get(), value.bytes()),
        "copy");
  return value;
}

}  // namespace

const LoraModule* AdapterImpl::find(int32_t layer, size_t linear) const {
  for (const LoraModule& module : modules)
    if (module.layer == layer && module.linear == linear) return &module;
  return nullptr;
}

const SavedModule* AdapterImpl::find_saved(const std::string& name) const {
  for (const SavedModule& module : saved)
    if (module.parameter.name == name) return &module;
  return nullptr;
}

int32_t AdapterImpl::max_rank() const {
  int32_t rank = 0;
  for (const LoraModule& module : modules) rank = std::max(rank, module.rank);
  return rank;
}

std::shared_ptr<AdapterImpl> create_adapter(std::shared_ptr<ModelImpl> model,
                                            const LoraOptions& options, uint64_t seed) {
  auto adapter = std::make_shared<AdapterImpl>();
  adapter->model = model;
  adapter->options = options;
  adapter->modules = select_lora_modules(model->config, options);
  for (size_t i = 0; i < adapter->modules.size(); ++i) {
    LoraModule& module = adapter->modules[i];
    std::vector<float> a(static_cast<size_t>(module.rank * module.in));
    const uint64_t key = random_key(seed, RandomUse::kInit, 0, i);
    const float bound = 1.0f / std::sqrt(static_cast<float>(module.in));
    for (size_t k = 0; k < a.size(); ++k) a[k] = bound * (2.0f * random_uniform(key, k) - 1.0f);
    module.a = Buffer(model->device, a.size() * sizeof(float));
    module.a.upload(a.data(), a.size() * sizeof(float));
    module.b = Buffer(model->device, static_cast<size_t>(module.out * module.rank) * sizeof(float));
  }
  for (const ParameterInfo& info : select_saved_modules(model->config, options))
    adapter->saved.push_back({info, copy_parameter(*model, info)});
  return adapter;
}

}  // namespace lowrank
