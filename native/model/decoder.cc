// A decoder's weights as they are used, and the calls of its blocks.
#include "model/decoder.h"

#include <algorithm>

#include "model/rope_tables.h"

namespace lowrank {

namespace {
constexpr uint64_t kCacheOffsetBytes = 4 * sizeof(int32_t);

uint64_t table_bytes(const ModelConfig& config, int64_t positions) {
  return static_cast<uint64_t>(positions) * static_cast<uint64_t>(config.rotary_dim / 2) *
         sizeof(float);
}
}  // namespace

ModelGradients make_gradients(const ModelConfig& config) {
  const BlockParameters block = block_parameters(config);
  LayerGradients layer;
  layer.linear.resize(block.linears().size());
  layer.vector.resize(block.vectors().size());
  ModelGradients gradients;
  gradients.layers.assign(static_cast<size_t>(config.layers), layer);
  return gradients;
}

uint64_t Decoder::held_bytes(const ModelConfig& config, int64_t max_positions) {
  return 2 * table_bytes(config, max_positions) + kCacheOffsetBytes;
}

Decoder::Decoder(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
                 int64_t max_positions)
    : model_(std::move(model)), adapter_(std::move(adapter)), rope_rows_(max_positions) {
  for (size_t l = 0; l < model_->layers.size(); ++l) {
    const LayerWeights& weights = model_->layers[l];
    LayerUse layer;
    for (size_t i = 0; i < weights.linear.size(); ++i)
      layer.linear.push_back({resolve(weights.linear[i]), resolve(weights.bias[i]),
                              adapter_ ? adapter_->find(static_cast<int32_t>(l), i) : nullptr});
    for (const WeightVector& vector : weights.vector)
      layer.vector.push_back({resolve(vector), vector.count});
    layers_.push_back(std::move(layer));
  }
  embedding_ = resolve(model_->embedding);
  head_ = resolve_head();
  final_norm_ = resolve(model_->final_norm);

  const uint64_t bytes = table_bytes(model_->config, max_positions);
  rope_cos_ = Buffer(model_->device, bytes);
  rope_sin_ = Buffer(model_->device, bytes);
  prepare_rope(1);
  cache_offsets_ = Buffer(model_->device, kCacheOffsetBytes);
}

Weight Decoder::resolve(const WeightMatrix& matrix) const {
  const SavedModule* saved = adapter_ ? adapter_->find_saved(matrix.name) : nullptr;
  if (!saved) return matrix.view;
  Weight weight;
  weight.data = saved->value.data();
  weight.storage = Storage::kF32;
  weight.rows = matrix.view.rows;
  weight.cols = matrix.view.cols;
  return weight;
}

Weight Decoder::resolve_head() const {
  if (!model_->config.tied_embeddings) return resolve(model_->head);
  // A tied head that is trained apart from the embedding has a value of its own, and the base's
  // stays the head's where only the embedding is.
  Weight weight = model_->embedding.view;
  const SavedModule* saved = adapter_ ? adapter_->find_saved(model_->config.names.head) : nullptr;
  if (saved) {
    weight.storage = Storage::kF32;
    weight.data = saved->value.data();
  }
  return weight;
}

const float* Decoder::resolve(const WeightVector& vector) const {
  if (vector.count == 0) return nullptr;
  const SavedModule* saved = adapter_ ? adapter_->find_saved(vector.name) : nullptr;
  return saved ? saved->value.as<const float>() : vector.get();
}

void Decoder::prepare_rope(int64_t longest) {
  const ModelConfig& config = model_->config;
  // Only dynamic scaling beyond the trained length depends on the sequence.
  const int64_t wanted = config.rope.type == RopeType::kDynamic
                             ? std::max(longest, config.max_positions)
                             : config.max_positions;
  if (wanted == rope_longest_) return;
  std::vector<float> cos, sin;
  fill_rope_tables(config, wanted, rope_rows_, &cos, &sin);
  rope_cos_.upload(cos.data(), cos.size() * sizeof(float));
  rope_sin_.upload(sin.data(), sin.size() * sizeof(float));
  rope_longest_ = wanted;
}

Matrix Decoder::activation(const void* data, int64_t rows, int64_t cols) const {
  // Inputs share the type with outputs; ops write only what their contract says.
  const DType dtype = model_->options.compute;
  return {const_cast<void*>(data), dtype, rows, cols, row_stride(*model_->device, dtype, cols)};
}

BlockOperands Decoder::operands(int32_t layer, const DecoderBatch& batch,
                                const BufferSet& scratch) const {
  BlockOperands operands;
  operands.model = model_.get();
  if (adapter_) operands.lora_dropout = static_cast<float>(adapter_->options.lora_dropout);
  operands.rope_cos = rope_cos_.as<const float>();
  operands.rope_sin = rope_sin_.as<const float>();
  operands.layer = layer;
  operands.weights = &layers_[static_cast<size_t>(layer)];
  operands.batch = &batch;
  operands.key_offsets = batch.document_offsets;
  operands.key_rows = batch.tokens;
  operands.scratch = &scratch;
  return operands;
}

void Decoder::block_forward(int32_t layer, const DecoderBatch& batch, const void* x_in, void* x_out,
                            const BufferSet& saved, const BufferSet& scratch) {
  BlockOperands pass = operands(layer, batch, scratch);
  pass.saved = &saved;
  model_->config.block->forward(BlockPass(pass), x_in, x_out);
}

void Decoder::block_recompute(int32_t layer, const DecoderBatch& batch, const void* x_in,
                              const BufferSet& saved, const BufferSet& scratch) {
  BlockOperands pass = operands(layer, batch, scratch);
  pass.saved = &saved;
  model_->config.block->recompute(BlockPass(pass), x_in);
}

void Decoder::block_backward(int32_t layer, const DecoderBatch& batch, const void* x_in, void* d_x,
                             const BufferSet& saved, const BufferSet& scratch,
                             const LayerGradients& gradients, bool want_d_x) {
  BlockOperands pass = operands(layer, batch, scratch);
  pass.saved = &saved;
  pass.gradients = &gradients;
  model_->config.block->backward(BlockPass(pass), x_in, d_x, want_d_x);
}

void Decoder::block_cached(int32_t layer, const int32_t* positions, int64_t tokens, int64_t past,
                           void* x, void* k_cache, void* v_cache, const BufferSet& scratch) {
  const ModelConfig& config = model_->config;
  const DType dtype = model_->options.compute;
  const int64_t kv_cols = int64_t{config.kv_heads} * config.head_dim;
  const uint64_t past_bytes = activation_bytes(*model_->device, dtype, past, kv_cols);
  if (layer == 0) {
    prepare_rope(past + tokens);
    const int32_t offsets[4] = {0, static_cast<int32_t>(tokens), 0,
                                static_cast<int32_t>(past + tokens)};
    cache_offsets_.upload(offsets, sizeof offsets);
  }
  DecoderBatch batch;
  batch.positions = positions;
  batch.tokens = tokens;
  batch.documents = 1;
  batch.document_offsets = cache_offsets_.as<const int32_t>();
  BlockOperands pass = operands(layer, batch, scratch);
  pass.key_offsets = batch.document_offsets + 2;
  pass.key_rows = past + tokens;
  KeyValueCache cache;
  cache.keys = k_cache;
  cache.values = v_cache;
  cache.new_keys = static_cast<char*>(k_cache) + past_bytes;
  cache.new_values = static_cast<char*>(v_cache) + past_bytes;
  config.block->forward_cached(BlockPass(pass), cache, x);
}

}  // namespace lowrank
