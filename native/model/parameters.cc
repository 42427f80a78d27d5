#include "model/parameters.h"

#include "model/block.h"

namespace lowrank {
namespace {

using Kind = ParameterPlace::Kind;

void add_block(const ModelConfig& config, const BlockParameters& block, int32_t layer,
               std::vector<ParameterInfo>* parameters) {
  const std::string prefix = layer_prefix(config, layer);
  for (const BlockParameters::Entry& entry : block.order()) {
    const size_t i = entry.index;
    if (!entry.is_linear) {
      const VectorInfo& vector = block.vectors()[i];
      if (vector.count)
        parameters->push_back({prefix + vector.path, {vector.count}, {Kind::kVector, layer, i}});
      continue;
    }
    const LinearInfo& linear = block.linears()[i];
    const std::string name = prefix + linear.path;
    parameters->push_back({name + ".weight", {linear.out, linear.in}, {Kind::kLinear, layer, i}});
    if (linear.bias) parameters->push_back({name + ".bias", {linear.out}, {Kind::kBias, layer, i}});
  }
}

}  // namespace

BlockParameters block_parameters(const ModelConfig& config) {
  return config.block->parameters(config);
}

std::string layer_prefix(const ModelConfig& config, int64_t layer) {
  return config.names.layers + std::to_string(layer) + ".";
}

std::vector<ParameterInfo> model_parameters(const ModelConfig& config) {
  std::vector<ParameterInfo> parameters;
  parameters.push_back(
      {config.names.embedding, {config.vocabulary, config.hidden}, {Kind::kEmbedding}});
  const BlockParameters block = block_parameters(config);
  for (int32_t layer = 0; layer < static_cast<int32_t>(config.layers); ++layer)
    add_block(config, block, layer, &parameters);
  parameters.push_back({config.names.final_norm, {config.hidden}, {Kind::kFinalNorm}});
  if (!config.tied_embeddings) parameters.push_back(head_parameter(config));
  return parameters;
}

ParameterInfo head_parameter(const ModelConfig& config) {
  return {config.names.head, {config.vocabulary, config.hidden}, {Kind::kHead}};
}

}  // namespace lowrank
