#include "model/weights.h"

namespace lowrank {

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
    for (const WeightVector& vector : layer.vector) add(vector);
  }
  return bytes;
}

void ModelImpl::make_layers() {
  const BlockParameters block = block_parameters(config);
  layers.resize(static_cast<size_t>(config.layers));
  for (LayerWeights& layer : layers) {
    layer.linear.resize(block.linears().size());
    layer.bias.resize(block.linears().size());
    layer.vector.resize(block.vectors().size());
  }
}

ModelImpl::Named ModelImpl::find(const ParameterInfo& parameter) {
  const ParameterPlace& place = parameter.place;
  const auto layer = static_cast<size_t>(place.layer);
  Named named;
  named.name = parameter.name;
  switch (place.kind) {
    case ParameterPlace::Kind::kEmbedding:
      named.matrix = &embedding;
      break;
    case ParameterPlace::Kind::kLinear:
      named.matrix = &layers[layer].linear[place.index];
      break;
    case ParameterPlace::Kind::kBias:
      named.vector = &layers[layer].bias[place.index];
      break;
    case ParameterPlace::Kind::kVector:
      named.vector = &layers[layer].vector[place.index];
      break;
    case ParameterPlace::Kind::kFinalNorm:
      named.vector = &final_norm;
      break;
    case ParameterPlace::Kind::kHead:
      named.matrix = config.tied_embeddings ? &embedding : &head;
      break;
  }
  return named;
}

std::vector<ModelImpl::Named> ModelImpl::parameters() {
  std::vector<Named> all;
  for (const ParameterInfo& parameter : model_parameters(config)) all.push_back(find(parameter));
  return all;
}

}  // namespace lowrank
