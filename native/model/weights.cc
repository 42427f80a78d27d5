#include "model/weights.h"

#include <cstring>

#include "core/error.h"

namespace lowrank {
namespace {

constexpr const char* kLayerPrefix = "model.layers.";

void assign(ModelImpl::Named* named, WeightMatrix* matrix) { named->matrix = matrix; }
void assign(ModelImpl::Named* named, WeightVector* vector) { named->vector = vector; }

bool ends_with(const std::string& text, const char* suffix) {
  const size_t length = std::strlen(suffix);
  return text.size() >= length && text.compare(text.size() - length, length, suffix) == 0;
}

void find_in_layer(const ModelConfig& config, LayerWeights& layer, const std::string& path,
                   ModelImpl::Named* named) {
  if (path == "input_layernorm.weight") return assign(named, &layer.input_norm);
  if (path == "post_attention_layernorm.weight") return assign(named, &layer.post_attention_norm);
  if (path == "self_attn.q_norm.weight") return assign(named, &layer.q_norm);
  if (path == "self_attn.k_norm.weight") return assign(named, &layer.k_norm);
  for (const LinearInfo& info : block_linears(config)) {
    const std::string prefix = std::string(info.path) + ".";
    if (path.compare(0, prefix.size(), prefix) != 0) continue;
    const auto slot = static_cast<size_t>(info.linear);
    if (ends_with(path, ".weight")) return assign(named, &layer.linear[slot]);
    if (ends_with(path, ".bias")) return assign(named, &layer.bias[slot]);
  }
}

}  // namespace

uint64_t WeightMatrix::bytes() const {
  const auto count = static_cast<uint64_t>(view.rows) * static_cast<uint64_t>(view.cols);
  switch (view.storage) {
    case Storage::kF32:
      return count * 4;
    case Storage::kBF16:
    case Storage::kF16:
      return count * 2;
    case Storage::kInt8:
      return count + static_cast<uint64_t>(view.rows) * 4;
    case Storage::kNF4: {
      const uint64_t blocks = (count + kNf4Block - 1) / kNf4Block;
      const uint64_t groups = (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
      return (count + 1) / 2 + (view.absmax_codes ? blocks + groups * 4 : blocks * 4);
    }
  }
  return 0;
}

uint64_t ModelImpl::weight_bytes() const {
  uint64_t bytes = embedding.bytes() + head.bytes() + nested_code.bytes();
  const auto add = [&bytes](const WeightVector& vector) {
    bytes += static_cast<uint64_t>(vector.count) * sizeof(float);
  };
  add(final_norm);
  for (const LayerWeights& layer : layers) {
    for (const WeightMatrix& matrix : layer.linear) bytes += matrix.bytes();
    for (const WeightVector& bias : layer.bias) add(bias);
    add(layer.input_norm);
    add(layer.post_attention_norm);
    add(layer.q_norm);
    add(layer.k_norm);
  }
  return bytes;
}

std::vector<ModelImpl::Named> ModelImpl::parameters() {
  std::vector<Named> all;
  const size_t prefix = std::strlen(kLayerPrefix);
  for (const ParameterInfo& info : model_parameters(config)) {
    Named named;
    named.name = info.name;
    if (info.name == "model.embed_tokens.weight") {
      named.matrix = &embedding;
    } else if (info.name == "lm_head.weight") {
      named.matrix = &head;
    } else if (info.name == "model.norm.weight") {
      named.vector = &final_norm;
    } else if (info.name.compare(0, prefix, kLayerPrefix) == 0) {
      const size_t dot = info.name.find('.', prefix);
      const auto layer = static_cast<size_t>(std::stoul(info.name.substr(prefix, dot - prefix)));
      find_in_layer(config, layers.at(layer), info.name.substr(dot + 1), &named);
    }
    if (!named.matrix && !named.vector)
      throw Error(ErrorCode::kInternal, "this parameter has no place in the model", info.name);
    all.push_back(std::move(named));
  }
  return all;
}

}  // namespace lowrank
