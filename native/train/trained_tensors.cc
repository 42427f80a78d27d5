#include "train/trained_tensors.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace lowrank {
namespace {

constexpr const char* kPeftPrefix = "base_model.model.";
constexpr const char* kLayerPrefix = "model.layers.";

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

TrainedTensor make_tensor(TrainedTensor::Kind kind, size_t index, std::string name,
                          std::string parameter, std::vector<int64_t> shape) {
  TrainedTensor tensor;
  tensor.kind = kind;
  tensor.index = index;
  tensor.name = std::move(name);
  tensor.parameter = std::move(parameter);
  tensor.count = element_count(shape);
  tensor.decay = shape.size() > 1;
  tensor.shape = std::move(shape);
  return tensor;
}

// Splits "model.layers.<n>.<rest>"; false for a parameter outside the blocks.
bool split_layer(const std::string& name, int32_t* layer, std::string* rest) {
  const size_t prefix = std::strlen(kLayerPrefix);
  if (name.compare(0, prefix, kLayerPrefix) != 0) return false;
  const size_t dot = name.find('.', prefix);
  if (dot == std::string::npos) return false;
  *layer = std::stoi(name.substr(prefix, dot - prefix));
  *rest = name.substr(dot + 1);
  return true;
}

[[noreturn]] void unknown_parameter(const std::string& name) {
  throw Error(ErrorCode::kUnsupported, "this parameter can't be trained", name);
}

float*& parameter_slot(const ModelConfig& config, const std::string& name,
                       ModelGradients& gradients) {
  int32_t layer = 0;
  std::string path;
  if (!split_layer(name, &layer, &path)) {
    if (name == "model.embed_tokens.weight") return gradients.d_embedding;
    if (name == "lm_head.weight") return gradients.d_head;
    if (name == "model.norm.weight") return gradients.d_final_norm;
    unknown_parameter(name);
  }
  LayerGradients& block = gradients.layers.at(static_cast<size_t>(layer));
  if (path == "input_layernorm.weight") return block.d_input_norm;
  if (path == "post_attention_layernorm.weight") return block.d_post_attention_norm;
  if (path == "self_attn.q_norm.weight") return block.d_q_norm;
  if (path == "self_attn.k_norm.weight") return block.d_k_norm;
  for (const LinearInfo& info : block_linears(config)) {
    LinearGradients& linear = block.linear[static_cast<size_t>(info.linear)];
    if (path == std::string(info.path) + ".weight") return linear.d_weight;
    if (path == std::string(info.path) + ".bias") return linear.d_bias;
  }
  unknown_parameter(name);
}

}  // namespace

std::vector<TrainedTensor> trained_tensors(const ModelConfig& config,
                                           const std::vector<LoraModule>& modules,
                                           const std::vector<ParameterInfo>& saved, bool full) {
  using Kind = TrainedTensor::Kind;
  std::vector<TrainedTensor> tensors;
  if (full) {
    const std::vector<ParameterInfo> parameters = model_parameters(config);
    for (size_t i = 0; i < parameters.size(); ++i)
      tensors.push_back(make_tensor(Kind::kParameter, i, parameters[i].name, parameters[i].name,
                                    parameters[i].shape));
    return tensors;
  }
  for (size_t i = 0; i < modules.size(); ++i) {
    const LoraModule& module = modules[i];
    const std::string base = kPeftPrefix + module.name;
    tensors.push_back(
        make_tensor(Kind::kLoraA, i, base + ".lora_A.weight", {}, {module.rank, module.in}));
    tensors.push_back(
        make_tensor(Kind::kLoraB, i, base + ".lora_B.weight", {}, {module.out, module.rank}));
  }
  for (size_t i = 0; i < saved.size(); ++i)
    tensors.push_back(
        make_tensor(Kind::kSaved, i, kPeftPrefix + saved[i].name, saved[i].name, saved[i].shape));
  return tensors;
}

int32_t lowest_trained_layer(const ModelConfig& config, const std::vector<LoraModule>& modules,
                             const std::vector<TrainedTensor>& tensors) {
  int32_t lowest = static_cast<int32_t>(config.layers);
  for (const LoraModule& module : modules) lowest = std::min(lowest, module.layer);
  for (const TrainedTensor& tensor : tensors) {
    int32_t layer = 0;
    std::string path;
    if (tensor.parameter == "model.embed_tokens.weight") lowest = 0;
    if (split_layer(tensor.parameter, &layer, &path)) lowest = std::min(lowest, layer);
  }
  return lowest;
}

float*& gradient_slot(const ModelConfig& config, const std::vector<LoraModule>& modules,
                      const TrainedTensor& tensor, ModelGradients& gradients) {
  if (!tensor.parameter.empty()) return parameter_slot(config, tensor.parameter, gradients);
  const LoraModule& module = modules[tensor.index];
  LinearGradients& linear = gradients.layers.at(static_cast<size_t>(module.layer))
                                .linear[static_cast<size_t>(module.linear)];
  return tensor.kind == TrainedTensor::Kind::kLoraA ? linear.d_a : linear.d_b;
}

std::vector<float*> trained_values(ModelImpl& model, AdapterImpl* adapter,
                                   const std::vector<TrainedTensor>& tensors) {
  using Kind = TrainedTensor::Kind;
  const std::vector<ModelImpl::Named> parameters = model.parameters();
  std::vector<float*> values;
  for (const TrainedTensor& tensor : tensors) {
    float* data = nullptr;
    if (tensor.kind == Kind::kLoraA) data = adapter->modules[tensor.index].a.as<float>();
    if (tensor.kind == Kind::kLoraB) data = adapter->modules[tensor.index].b.as<float>();
    if (tensor.kind == Kind::kSaved) data = adapter->saved[tensor.index].value.as<float>();
    if (tensor.kind == Kind::kParameter) {
      const ModelImpl::Named& named = parameters.at(tensor.index);
      if (named.name != tensor.parameter)
        throw Error(ErrorCode::kInternal, "the model's parameters are in another order",
                    named.name);
      if (named.vector) data = named.vector->mutable_get();
      if (named.matrix && named.matrix->view.storage == Storage::kF32)
        data = named.matrix->data.as<float>();
    }
    if (!data)
      throw Error(ErrorCode::kInvalidArgument, "this weight can't be trained", tensor.name,
                  "load the model as trainable, or train an adapter");
    values.push_back(data);
  }
  return values;
}

}  // namespace lowrank
