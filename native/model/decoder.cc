// The operations that a decoder's passes are made of. The order of a block is in decoder_block.cc.
#include "model/decoder.h"

#include <algorithm>

#include "core/error.h"
#include "core/random.h"
#include "model/decoder_layout.h"
#include "model/rope_tables.h"
#include "ops/attention.h"
#include "ops/embedding.h"
#include "ops/head_loss.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"

namespace lowrank {

namespace {
constexpr uint64_t kCacheOffsetBytes = 4 * sizeof(int32_t);

uint64_t table_bytes(const ModelConfig& config, int64_t positions) {
  return static_cast<uint64_t>(positions) * static_cast<uint64_t>(config.rotary_dim / 2) *
         sizeof(float);
}
}  // namespace

uint64_t Decoder::held_bytes(const ModelConfig& config, int64_t max_positions) {
  return 2 * table_bytes(config, max_positions) + kCacheOffsetBytes;
}

Decoder::Decoder(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
                 int64_t max_positions)
    : model_(std::move(model)), adapter_(std::move(adapter)), rope_rows_(max_positions) {
  const ModelConfig& config = model_->config;
  layers_.resize(model_->layers.size());
  for (size_t l = 0; l < layers_.size(); ++l) {
    const LayerWeights& weights = model_->layers[l];
    for (int i = 0; i < kLinearCount; ++i) {
      LinearUse& use = layers_[l].linear[i];
      use.weight = resolve(weights.linear[i]);
      use.bias = weights.bias[i].count ? resolve(weights.bias[i]) : nullptr;
      if (adapter_) use.lora = adapter_->find(static_cast<int32_t>(l), static_cast<Linear>(i));
    }
    layers_[l].input_norm = resolve(weights.input_norm);
    layers_[l].post_attention_norm = resolve(weights.post_attention_norm);
    if (config.qk_norm) {
      layers_[l].q_norm = resolve(weights.q_norm);
      layers_[l].k_norm = resolve(weights.k_norm);
    }
  }
  embedding_ = resolve(model_->embedding);
  head_ = resolve(model_->head_matrix());
  // A tied head that is trained apart from the embedding has a value of its own.
  if (adapter_ && config.tied_embeddings) {
    if (const SavedModule* saved = adapter_->find_saved("lm_head.weight")) {
      head_ = model_->embedding.view;
      head_.storage = Storage::kF32;
      head_.data = saved->value.data();
    } else {
      head_ = model_->embedding.view;
    }
  }
  final_norm_ = resolve(model_->final_norm);

  const uint64_t bytes = table_bytes(config, max_positions);
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

const float* Decoder::resolve(const WeightVector& vector) const {
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
  return {const_cast<void*>(data), model_->options.compute, rows, cols, cols};
}

LoraSegment Decoder::segment(const LoraModule& lora, int64_t rows, int32_t layer,
                             uint64_t dropout_seed) const {
  LoraSegment segment;
  segment.row_end = rows;
  segment.a = lora.a.as<const float>();
  segment.b = lora.b.as<const float>();
  segment.rank = lora.rank;
  segment.scale = lora.scale;
  if (dropout_seed != 0 && adapter_->options.lora_dropout > 0) {
    segment.dropout = static_cast<float>(adapter_->options.lora_dropout);
    segment.dropout_key =
        random_key(dropout_seed, RandomUse::kDropout, static_cast<uint64_t>(layer),
                   static_cast<uint64_t>(lora.linear));
  }
  return segment;
}

void Decoder::linear(int32_t layer, Linear which, const Matrix& x, const Matrix& y, void* xa,
                     const Matrix* residual, uint64_t dropout_seed,
                     const BufferSet& scratch) const {
  const LinearUse& use = layers_[static_cast<size_t>(layer)].linear[static_cast<int>(which)];
  LinearForward op;
  op.x = x;
  op.y = y;
  op.weight = use.weight;
  op.bias = use.bias;
  op.residual = residual;
  LoraSegment lora;
  if (use.lora) {
    lora = segment(*use.lora, x.rows, layer, dropout_seed);
    op.segments = &lora;
    op.segment_count = 1;
    op.xa = activation(xa, x.rows, use.lora->rank);
  }
  op.workspace = scratch[kScratchWorkspace];
  op.workspace_bytes = scratch.bytes(kScratchWorkspace);
  ops::linear_forward(*model_->device, op);
}

void Decoder::linear_backward(int32_t layer, Linear which, const void* x, const Matrix& d_y,
                              Matrix d_x, bool accumulate_d_x, void* xa,
                              const LinearGradients& gradients, uint64_t dropout_seed,
                              const BufferSet& scratch) const {
  const LinearUse& use = layers_[static_cast<size_t>(layer)].linear[static_cast<int>(which)];
  LinearBackward op;
  op.d_y = d_y;
  op.d_x = d_x;
  op.accumulate_d_x = accumulate_d_x;
  op.weight = use.weight;
  op.d_weight = gradients.d_weight;
  op.d_bias = gradients.d_bias;
  LoraSegment lora;
  if (use.lora) {
    lora = segment(*use.lora, d_y.rows, layer, dropout_seed);
    lora.d_a = gradients.d_a;
    lora.d_b = gradients.d_b;
    op.segments = &lora;
    op.segment_count = 1;
    op.xa = activation(xa, d_y.rows, use.lora->rank);
  }
  if (gradients.d_weight || gradients.d_a) op.x = activation(x, d_y.rows, use.weight.cols);
  op.workspace = scratch[kScratchWorkspace];
  op.workspace_bytes = scratch.bytes(kScratchWorkspace);
  ops::linear_backward(*model_->device, op);
}

void Decoder::norm(const void* x, void* y, int64_t rows, int64_t cols, const float* weight,
                   float* rstd) const {
  RmsNormForward op;
  op.x = activation(x, rows, cols);
  op.y = activation(y, rows, cols);
  op.weight = weight;
  op.eps = model_->config.rms_norm_eps;
  op.rstd = rstd;
  ops::rms_norm_forward(*model_->device, op);
}

void Decoder::norm_backward(const void* x, const void* d_y, void* d_x, int64_t rows, int64_t cols,
                            const float* weight, float* d_weight, const float* rstd,
                            bool accumulate) const {
  RmsNormBackward op;
  op.x = activation(x, rows, cols);
  op.d_y = activation(d_y, rows, cols);
  op.d_x = activation(d_x, rows, cols);
  op.accumulate_d_x = accumulate;
  op.weight = weight;
  op.d_weight = d_weight;
  op.rstd = rstd;
  ops::rms_norm_backward(*model_->device, op);
}

void Decoder::rotate(void* x, int64_t rows, int32_t heads, const int32_t* positions,
                     bool inverse) const {
  const ModelConfig& config = model_->config;
  Rope op;
  op.x = activation(x, rows, int64_t{heads} * config.head_dim);
  op.heads = heads;
  op.head_dim = config.head_dim;
  op.rotary_dim = config.rotary_dim;
  op.positions = positions;
  op.cos = rope_cos_.as<const float>();
  op.sin = rope_sin_.as<const float>();
  op.inverse = inverse;
  ops::rope(*model_->device, op);
}

void Decoder::embed(const DecoderBatch& batch, void* x) {
  int64_t longest = 0;
  for (int32_t d = 0; d < batch.documents; ++d)
    longest = std::max<int64_t>(longest, batch.document_offsets[d + 1] - batch.document_offsets[d]);
  if (batch.documents > 0) prepare_rope(longest);
  EmbeddingForward op;
  op.ids = batch.ids;
  op.weight = embedding_;
  op.y = activation(x, batch.tokens, model_->config.hidden);
  ops::embedding_forward(*model_->device, op);
}

void Decoder::embed_backward(const DecoderBatch& batch, const void* d_x, float* d_embedding) {
  EmbeddingBackward op;
  op.ids = batch.ids;
  op.d_y = activation(d_x, batch.tokens, model_->config.hidden);
  op.d_weight = d_embedding;
  op.padding_id = model_->config.padding_row;
  ops::embedding_backward(*model_->device, op);
}

void Decoder::head(const DecoderBatch& batch, const void* x, const HeadInput& input, void* d_x,
                   const BufferSet& scratch, float* d_head, float* d_final_norm) {
  const int64_t hidden = model_->config.hidden;
  float* rstd = static_cast<float*>(scratch[kScratchRstd]);
  norm(x, scratch[kScratchNorm], batch.tokens, hidden, final_norm_, rstd);
  HeadLoss op;
  op.x = activation(scratch[kScratchNorm], batch.tokens, hidden);
  if (d_x) op.d_x = activation(scratch[kScratchDNorm], batch.tokens, hidden);
  op.rows = input.rows;
  op.targets = input.targets;
  op.weights = input.weights;
  op.count = input.count;
  op.weight = head_;
  op.d_weight = d_head;
  op.logprob = input.logprob;
  op.correct = input.correct;
  op.workspace = scratch[kScratchWorkspace];
  op.workspace_bytes = scratch.bytes(kScratchWorkspace);
  ops::head_loss(*model_->device, op);
  if (d_x)
    norm_backward(x, scratch[kScratchDNorm], d_x, batch.tokens, hidden, final_norm_, d_final_norm,
                  rstd, false);
}

void Decoder::logits(const void* x, int64_t first, int64_t count, float* logits,
                     const BufferSet& scratch) {
  const int64_t hidden = model_->config.hidden;
  const char* rows = static_cast<const char*>(x) +
                     static_cast<size_t>(first * hidden) * dtype_size(model_->options.compute);
  norm(rows, scratch[kScratchNorm], count, hidden, final_norm_, nullptr);
  LinearForward op;
  op.x = activation(scratch[kScratchNorm], count, hidden);
  op.y = {logits, DType::kF32, count, head_.rows, head_.rows};
  op.weight = head_;
  op.workspace = scratch[kScratchWorkspace];
  op.workspace_bytes = scratch.bytes(kScratchWorkspace);
  ops::linear_forward(*model_->device, op);
}

}  // namespace lowrank
