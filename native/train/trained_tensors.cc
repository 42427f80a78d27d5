#include "train/trained_tensors.h"

#include <algorithm>

#include "core/error.h"

namespace lowrank {
namespace {

constexpr const char* kPeftPrefix = "base_model.model.";

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

TrainedTensor make_tensor(TrainedTensor::Kind kind, size_t index, std::string name,
                          const ParameterPlace& place, std::vector<int64_t> shape) {
  TrainedTensor tensor;
  tensor.kind = kind;
  tensor.index = index;
  tensor.name = std::move(name);
  tensor.place = place;
  tensor.count = element_count(shape);
  tensor.decay = shape.size() > 1;
  tensor.shape = std::move(shape);
  return tensor;
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
      tensors.push_back(make_tensor(Kind::kParameter, i, parameters[i].name, parameters[i].place,
                                    parameters[i].shape));
    return tensors;
  }
  for (size_t i = 0; i < modules.size(); ++i) {
    const LoraModule& module = modules[i];
    const std::string base = kPeftPrefix + module.name;
    const ParameterPlace place{ParameterPlace::Kind::kLinear, module.layer, module.linear};
    tensors.push_back(
        make_tensor(Kind::kLoraA, i, base + ".lora_A.weight", place, {module.rank, module.in}));
    tensors.push_back(
        make_tensor(Kind::kLoraB, i, base + ".lora_B.weight", place, {module.out, module.rank}));
  }
  for (size_t i = 0; i < saved.size(); ++i)
    tensors.push_back(
        make_tensor(Kind::kSaved, i, kPeftPrefix + saved[i].name, saved[i].place, saved[i].shape));
  return tensors;
}

int32_t lowest_trained_layer(const ModelConfig& config, const std::vector<TrainedTensor>& tensors) {
  int32_t lowest = static_cast<int32_t>(config.layers);
  for (const TrainedTensor& tensor : tensors) {
    if (tensor.place.kind == ParameterPlace::Kind::kEmbedding) return 0;
    if (tensor.place.layer >= 0) lowest = std::min(lowest, tensor.place.layer);
  }
  return lowest;
}

float*& gradient_slot(const TrainedTensor& tensor, ModelGradients& gradients) {
  const ParameterPlace& place = tensor.place;
  using Place = ParameterPlace::Kind;
  if (place.kind == Place::kEmbedding) return gradients.d_embedding;
  if (place.kind == Place::kHead) return gradients.d_head;
  if (place.kind == Place::kFinalNorm) return gradients.d_final_norm;
  LayerGradients& layer = gradients.layers.at(static_cast<size_t>(place.layer));
  if (place.kind == Place::kVector) return layer.vector.at(place.index);
  LinearGradients& linear = layer.linear.at(place.index);
  if (tensor.kind == TrainedTensor::Kind::kLoraA) return linear.d_a;
  if (tensor.kind == TrainedTensor::Kind::kLoraB) return linear.d_b;
  return place.kind == Place::kBias ? linear.d_bias : linear.d_weight;
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
      if (named.name != tensor.name)
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
