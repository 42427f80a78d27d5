// What a run trains: the tensors of an adapter, or every parameter of a model, in one fixed order
// with the names they have in PEFT's and Hugging Face's files. Known from the configuration alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/adapter.h"
#include "model/config.h"
#include "model/decoder.h"

namespace lowrank {

struct TrainedTensor {
  enum class Kind : uint8_t { kLoraA, kLoraB, kSaved, kParameter };
  std::string name;      // in the file that a user sees
  ParameterPlace place;  // of the parameter; for LoRA of the linear that it is on
  std::vector<int64_t> shape;
  int64_t count = 0;
  Kind kind = Kind::kParameter;
  size_t index = 0;    // into the adapter's modules or saved modules, or model_parameters()
  bool decay = false;  // matrices only: never norms and biases
};

// Exactly the adapter's tensors, or with `full` every parameter of the model.
std::vector<TrainedTensor> trained_tensors(const ModelConfig& config,
                                           const std::vector<LoraModule>& modules,
                                           const std::vector<ParameterInfo>& saved, bool full);

// The lowest layer that needs a backward pass; config.layers when only the final norm or the head
// is trained, 0 with a trained embedding.
int32_t lowest_trained_layer(const ModelConfig& config, const std::vector<TrainedTensor>& tensors);

// Where `tensor`'s gradient goes, in what make_gradients() made.
float*& gradient_slot(const TrainedTensor& tensor, ModelGradients& gradients);

// The f32 values that are trained, in the order of `tensors`. `adapter` is null in full
// fine-tuning. Throws Error{kInvalidArgument} for a weight that has no f32 copy on the device.
std::vector<float*> trained_values(ModelImpl& model, AdapterImpl* adapter,
                                   const std::vector<TrainedTensor>& tensors);

}  // namespace lowrank
