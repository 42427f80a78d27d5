// What the tests of model and adapter files share.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "io/files.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/sharded.h"
#include "model/adapter.h"
#include "model/place_weights.h"
#include "model/weights.h"
#include "support/temporary_folder.h"
#include "support/test.h"

namespace lowrank::test {

inline std::shared_ptr<Device> cpu() {
  DeviceOptions options;
  options.threads = 1;
  return Device::open("cpu", options);
}

inline std::string golden(const std::string& name) {
  return std::string(LOWRANK_GOLDEN_FOLDER) + "/adapter/" + name;
}

inline std::string tiny_config(const std::string& dtype = "float32", bool tied = false) {
  return R"({"model_type":"llama","vocab_size":37,"hidden_size":64,"intermediate_size":48,)"
         R"("num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,)"
         R"("max_position_embeddings":64,"rms_norm_eps":1e-05,"initializer_range":0.5,)"
         R"("rope_theta":10000.0,"hidden_act":"silu","torch_dtype":")" +
         dtype + R"(","tie_word_embeddings":)" + (tied ? "true}" : "false}");
}

// Values of a parameter as f32.
inline std::vector<float> values_of(ModelImpl& model, const std::string& name) {
  for (const ModelImpl::Named& named : model.parameters()) {
    if (named.name != name) continue;
    if (named.vector) {
      const float* data = named.vector->get();
      return {data, data + named.vector->count};
    }
    const Weight& view = named.matrix->view;
    std::vector<float> values(static_cast<size_t>(view.rows * view.cols));
    weight_to_f32(*model.device, view, values.data());
    return values;
  }
  return {};
}

inline std::vector<float> tensor_floats(const TensorView& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.count()));
  to_floats(tensor.data, tensor.dtype, tensor.count(), values.data());
  return values;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return INFINITY;
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

// Copies a folder's files so that a test can damage them.
inline void copy_folder(const std::string& from, const std::string& to) {
  std::filesystem::create_directories(to);
  for (const std::string& name : list_files(from))
    copy_file(join_path(from, name), join_path(to, name));
}

// Changes one member of a JSON file.
inline void edit_json(const std::string& path, const std::string& key, Json value) {
  Json json = Json::parse(read_text_file(path), path);
  json.set(key, std::move(value));
  write_text_file(path, json.dump(2));
}

// Writes a safetensors file again with a tensor left out, or with `extra` added.
inline void rewrite(const std::string& path, const std::string& without,
                    const std::string& extra = {}) {
  const SafetensorsFile file(path);
  SafetensorsWriter writer(path);
  for (const TensorView& tensor : file.tensors())
    if (tensor.name != without) writer.declare(tensor.name, tensor.dtype, tensor.shape);
  if (!extra.empty()) writer.declare(extra, DType::kF32, {2});
  for (const TensorView& tensor : file.tensors())
    if (tensor.name != without) writer.append(tensor.data, tensor.bytes);
  const float values[2] = {1, 2};
  if (!extra.empty()) writer.append(values, sizeof values);
  writer.finish();
}

}  // namespace lowrank::test
