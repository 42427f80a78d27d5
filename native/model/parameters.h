// The parameters of a model: names and shapes in Hugging Face's files, and where each stands in the
// model. Known from the configuration alone.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model/config.h"

namespace lowrank {

struct LinearInfo {
  std::string path;  // inside the block, "self_attn.q_proj"
  int64_t in = 0, out = 0;
  bool bias = false;
  // The block's output is made of it and nothing else that its backward pass reads: a recomputation
  // leaves it out, and its low-rank product is kept.
  bool only_output = false;
};

// A norm's weight or bias: always f32.
struct VectorInfo {
  std::string path;   // inside the block, "input_layernorm.weight"
  int64_t count = 0;  // 0 = this configuration has none
};

// What one block is made of. The rest of the engine calls a linear or a vector by its place in its
// list.
class BlockParameters {
 public:
  struct Entry {
    bool is_linear;
    size_t index;
  };

  // In the order of Hugging Face's files, which random initialisation and optimizer states follow.
  void add_linear(std::string path, int64_t in, int64_t out, bool bias, bool only_output = false) {
    order_.push_back({true, linears_.size()});
    linears_.push_back({std::move(path), in, out, bias, only_output});
  }
  void add_vector(std::string path, int64_t count) {
    order_.push_back({false, vectors_.size()});
    vectors_.push_back({std::move(path), count});
  }

  // Not of a temporary: the lists would be gone.
  const std::vector<LinearInfo>& linears() const& { return linears_; }
  const std::vector<VectorInfo>& vectors() const& { return vectors_; }
  const std::vector<Entry>& order() const& { return order_; }
  const std::vector<LinearInfo>& linears() && = delete;
  const std::vector<VectorInfo>& vectors() && = delete;
  const std::vector<Entry>& order() && = delete;

 private:
  std::vector<LinearInfo> linears_;
  std::vector<VectorInfo> vectors_;
  std::vector<Entry> order_;
};

// Of the block that `config` names.
BlockParameters block_parameters(const ModelConfig& config);

// "model.layers.3.", before a path inside the block.
std::string layer_prefix(const ModelConfig& config, int64_t layer);

struct ParameterPlace {
  enum class Kind : uint8_t { kEmbedding, kLinear, kBias, kVector, kFinalNorm, kHead };
  Kind kind = Kind::kEmbedding;
  int32_t layer = -1;  // -1 = outside the blocks
  size_t index = 0;    // inside a block: of the linear or the vector
};

struct ParameterInfo {
  std::string name;
  std::vector<int64_t> shape;
  ParameterPlace place;
};

// In a fixed order; without the head when it is tied to the embedding.
std::vector<ParameterInfo> model_parameters(const ModelConfig& config);
// The head as a parameter of its own, tied or not.
ParameterInfo head_parameter(const ModelConfig& config);

}  // namespace lowrank
