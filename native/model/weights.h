// The weights of a base model on a device.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "engine_types.h"
#include "model/parameters.h"

namespace lowrank {

// A weight matrix and the device memory behind it. When the file's storage type is kept and the
// device reads host memory, `view.data` points into the mapped file and `data` is empty.
struct WeightMatrix {
  std::string name;  // Hugging Face name with ".weight"
  Weight view;
  Buffer data;
  Buffer absmax, nested_absmax;  // NF4 (absmax holds codes with double quantization)
  Buffer nested_map;             // its own code book, where a file brought one
  uint64_t bytes() const;
};

// Norm weights and biases: always f32 on the device.
struct WeightVector {
  std::string name;
  int64_t count = 0;
  Buffer data;
  const float* get() const { return data.as<const float>(); }
  float* mutable_get() { return data.as<float>(); }
};

// By the places of BlockParameters.
struct LayerWeights {
  std::vector<WeightMatrix> linear;
  std::vector<WeightVector> bias;    // one per linear; count 0 = none
  std::vector<WeightVector> vector;  // count 0 = none
};

class ModelImpl {
 public:
  std::shared_ptr<Device> device;
  ModelConfig config;
  ModelOptions options;
  std::string folder;
  WeightMatrix embedding;
  WeightMatrix head;  // rows 0 when tied
  WeightVector final_norm;
  std::vector<LayerWeights> layers;
  std::vector<std::shared_ptr<void>> mappings;  // keep mapped files alive
  Buffer nested_code;                           // NF4 double quantization's shared map

  const WeightMatrix& head_matrix() const { return config.tied_embeddings ? embedding : head; }
  uint64_t weight_bytes() const;

  // Empty places for the weights of every layer.
  void make_layers();

  // Exactly one of matrix, vector is set.
  struct Named {
    std::string name;
    WeightMatrix* matrix = nullptr;
    WeightVector* vector = nullptr;
  };
  // A tied head is the embedding.
  Named find(const ParameterInfo& parameter);
  // Every parameter in the order of model_parameters().
  std::vector<Named> parameters();
};

// What Model::load, create and save of engine.h do; the same arguments and errors.
std::shared_ptr<ModelImpl> load_model(std::shared_ptr<Device> device, const std::string& folder,
                                      const ModelOptions& options, const Progress& progress,
                                      const std::atomic<bool>* abort);
std::shared_ptr<ModelImpl> create_model(std::shared_ptr<Device> device,
                                        const std::string& config_json, const ModelOptions& options,
                                        uint64_t seed);
std::shared_ptr<ModelImpl> create_model(std::shared_ptr<Device> device, ModelConfig config,
                                        const ModelOptions& options, uint64_t seed);
void save_model(const ModelImpl& model, const std::string& folder, DType dtype);

}  // namespace lowrank
