// One block, forward and backward: norm, attention, norm, gated MLP, with two residual additions.
#include <cmath>
#include <cstdint>

#include "model/decoder.h"
#include "model/decoder_layout.h"
#include "ops/attention.h"
#include "ops/gated_activation.h"

namespace lowrank {
namespace {

const Matrix kNotWanted;

float* as_floats(void* data) { return static_cast<float*>(data); }

bool wants_input(const LinearGradients& gradients) { return gradients.d_weight || gradients.d_a; }

}  // namespace

void Decoder::finish_queries_and_keys(int32_t layer, int64_t rows, const int32_t* positions,
                                      const void* q, const void* k, void* q_out, void* k_out,
                                      float* rstd_q, float* rstd_k) const {
  const ModelConfig& config = model_->config;
  const LayerUse& use = layers_[static_cast<size_t>(layer)];
  if (config.qk_norm) {
    norm(q, q_out, rows * config.heads, config.head_dim, use.q_norm, rstd_q);
    norm(k, k_out, rows * config.kv_heads, config.head_dim, use.k_norm, rstd_k);
  }
  if (!config.layer_uses_rope[static_cast<size_t>(layer)]) return;
  rotate(q_out, rows, config.heads, positions, false);
  rotate(k_out, rows, config.kv_heads, positions, false);
}

AttentionForward Decoder::attention(int32_t layer, const DecoderBatch& batch, const void* q,
                                    const void* k, const void* v, void* out, float* lse,
                                    const BufferSet& scratch) const {
  const ModelConfig& config = model_->config;
  const int64_t q_cols = int64_t{config.heads} * config.head_dim;
  const int64_t kv_cols = int64_t{config.kv_heads} * config.head_dim;
  AttentionForward op;
  op.q = activation(q, batch.tokens, q_cols);
  op.k = activation(k, batch.tokens, kv_cols);
  op.v = activation(v, batch.tokens, kv_cols);
  op.out = activation(out, batch.tokens, q_cols);
  op.lse = lse;
  op.q_offsets = batch.document_offsets;
  op.k_offsets = batch.document_offsets;
  op.documents = batch.documents;
  op.heads = config.heads;
  op.kv_heads = config.kv_heads;
  op.head_dim = config.head_dim;
  op.window = config.layer_window[static_cast<size_t>(layer)];
  op.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  op.workspace = scratch[kScratchWorkspace];
  op.workspace_bytes = scratch.bytes(kScratchWorkspace);
  return op;
}

void Decoder::mlp(int32_t layer, int64_t rows, const void* x_mid, void* x_out, void* gate, void* up,
                  float* rstd, void* const* xa, uint64_t dropout_seed,
                  const BufferSet& scratch) const {
  const ModelConfig& config = model_->config;
  const int64_t hidden = config.hidden, ffn = config.intermediate;
  norm(x_mid, scratch[kScratchNorm], rows, hidden,
       layers_[static_cast<size_t>(layer)].post_attention_norm, rstd);
  const Matrix h = activation(scratch[kScratchNorm], rows, hidden);
  const Matrix gate_matrix = activation(gate, rows, ffn), up_matrix = activation(up, rows, ffn);
  linear(layer, Linear::kGate, h, gate_matrix, xa[static_cast<int>(Linear::kGate)], nullptr,
         dropout_seed, scratch);
  linear(layer, Linear::kUp, h, up_matrix, xa[static_cast<int>(Linear::kUp)], nullptr, dropout_seed,
         scratch);
  const Matrix act = activation(scratch[kScratchAct], rows, ffn);
  ops::gated_activation_forward(*model_->device, {gate_matrix, up_matrix, act, config.activation});
  const Matrix residual = activation(x_mid, rows, hidden);
  linear(layer, Linear::kDown, act, activation(x_out, rows, hidden),
         xa[static_cast<int>(Linear::kDown)], &residual, dropout_seed, scratch);
}

void Decoder::block_forward(int32_t layer, const DecoderBatch& batch, const void* x_in, void* x_out,
                            const BufferSet& saved, const BufferSet& scratch) {
  const ModelConfig& config = model_->config;
  const int64_t rows = batch.tokens, hidden = config.hidden;
  const int64_t q_cols = int64_t{config.heads} * config.head_dim;
  const int64_t kv_cols = int64_t{config.kv_heads} * config.head_dim;
  const uint64_t seed = batch.dropout_seed;
  void* const* xa = saved.data() + kSavedXa;

  norm(x_in, scratch[kScratchNorm], rows, hidden, layers_[static_cast<size_t>(layer)].input_norm,
       as_floats(saved[kSavedRstd1]));
  const Matrix h = activation(scratch[kScratchNorm], rows, hidden);
  linear(layer, Linear::kQ, h, activation(saved[kSavedQ], rows, q_cols), xa[0], nullptr, seed,
         scratch);
  linear(layer, Linear::kK, h, activation(saved[kSavedK], rows, kv_cols), xa[1], nullptr, seed,
         scratch);
  linear(layer, Linear::kV, h, activation(saved[kSavedV], rows, kv_cols), xa[2], nullptr, seed,
         scratch);
  void* q = config.qk_norm ? scratch[kScratchQ] : saved[kSavedQ];
  void* k = config.qk_norm ? scratch[kScratchK] : saved[kSavedK];
  finish_queries_and_keys(layer, rows, batch.positions, saved[kSavedQ], saved[kSavedK], q, k,
                          as_floats(saved[kSavedRstdQ]), as_floats(saved[kSavedRstdK]));
  ops::attention_forward(*model_->device,
                         attention(layer, batch, q, k, saved[kSavedV], saved[kSavedAttention],
                                   as_floats(saved[kSavedLse]), scratch));
  const Matrix residual = activation(x_in, rows, hidden);
  linear(layer, Linear::kO, activation(saved[kSavedAttention], rows, q_cols),
         activation(saved[kSavedMid], rows, hidden), xa[3], &residual, seed, scratch);
  mlp(layer, rows, saved[kSavedMid], x_out, saved[kSavedGate], saved[kSavedUp],
      as_floats(saved[kSavedRstd2]), xa, seed, scratch);
}

void Decoder::block_backward(int32_t layer, const DecoderBatch& batch, const void* x_in, void* d_x,
                             const BufferSet& saved, const BufferSet& scratch,
                             const LayerGradients& gradients, bool want_d_x) {
  const ModelConfig& config = model_->config;
  const LayerUse& use = layers_[static_cast<size_t>(layer)];
  const int64_t rows = batch.tokens, hidden = config.hidden, ffn = config.intermediate;
  const int64_t q_cols = int64_t{config.heads} * config.head_dim;
  const int64_t kv_cols = int64_t{config.kv_heads} * config.head_dim;
  const uint64_t seed = batch.dropout_seed;
  void* const* xa = saved.data() + kSavedXa;
  const auto& of = [&](Linear linear) -> const LinearGradients& {
    return gradients.linear[static_cast<int>(linear)];
  };
  const auto backward = [&](Linear which, const void* x, const void* d_y, const Matrix& out,
                            bool accumulate) {
    const int64_t cols = use.linear[static_cast<int>(which)].weight.rows;
    linear_backward(layer, which, x, activation(d_y, rows, cols), out, accumulate,
                    xa[static_cast<int>(which)], of(which), seed, scratch);
  };

  // MLP. The saved gate and up become their own gradients.
  const Matrix gate = activation(saved[kSavedGate], rows, ffn);
  const Matrix up = activation(saved[kSavedUp], rows, ffn);
  const Matrix d_act = activation(scratch[kScratchDAct], rows, ffn);
  if (wants_input(of(Linear::kDown)))
    ops::gated_activation_forward(
        *model_->device,
        {gate, up, activation(scratch[kScratchAct], rows, ffn), config.activation});
  backward(Linear::kDown, scratch[kScratchAct], d_x, d_act, false);
  ops::gated_activation_backward(*model_->device, {gate, up, d_act, gate, up, config.activation});
  if (wants_input(of(Linear::kGate)) || wants_input(of(Linear::kUp)))
    norm(saved[kSavedMid], scratch[kScratchNorm], rows, hidden, use.post_attention_norm, nullptr);
  const Matrix d_norm = activation(scratch[kScratchDNorm], rows, hidden);
  backward(Linear::kGate, scratch[kScratchNorm], saved[kSavedGate], d_norm, false);
  backward(Linear::kUp, scratch[kScratchNorm], saved[kSavedUp], d_norm, true);
  norm_backward(saved[kSavedMid], scratch[kScratchDNorm], d_x, rows, hidden,
                use.post_attention_norm, gradients.d_post_attention_norm,
                as_floats(saved[kSavedRstd2]), true);

  // Attention. Its output's gradient becomes that of the queries.
  void* d_q = scratch[kScratchDQ];
  backward(Linear::kO, saved[kSavedAttention], d_x, activation(d_q, rows, q_cols), false);
  void* q = saved[kSavedQ];
  void* k = saved[kSavedK];
  if (config.qk_norm) {
    q = scratch[kScratchQ];
    k = scratch[kScratchK];
    finish_queries_and_keys(layer, rows, batch.positions, saved[kSavedQ], saved[kSavedK], q, k,
                            as_floats(saved[kSavedRstdQ]), as_floats(saved[kSavedRstdK]));
  }
  AttentionBackward op;
  op.forward = attention(layer, batch, q, k, saved[kSavedV], saved[kSavedAttention],
                         as_floats(saved[kSavedLse]), scratch);
  op.d_out = activation(d_q, rows, q_cols);
  op.d_q = op.d_out;
  op.d_k = activation(scratch[kScratchDK], rows, kv_cols);
  op.d_v = activation(scratch[kScratchDV], rows, kv_cols);
  ops::attention_backward(*model_->device, op);
  if (config.layer_uses_rope[static_cast<size_t>(layer)]) {
    rotate(d_q, rows, config.heads, batch.positions, true);
    rotate(scratch[kScratchDK], rows, config.kv_heads, batch.positions, true);
  }
  if (config.qk_norm) {
    norm_backward(saved[kSavedQ], d_q, d_q, rows * config.heads, config.head_dim, use.q_norm,
                  gradients.d_q_norm, as_floats(saved[kSavedRstdQ]), false);
    norm_backward(saved[kSavedK], scratch[kScratchDK], scratch[kScratchDK], rows * config.kv_heads,
                  config.head_dim, use.k_norm, gradients.d_k_norm, as_floats(saved[kSavedRstdK]),
                  false);
  }

  const bool want_d_norm = want_d_x || gradients.d_input_norm;
  const Matrix d_input = want_d_norm ? d_norm : kNotWanted;
  if (wants_input(of(Linear::kQ)) || wants_input(of(Linear::kK)) || wants_input(of(Linear::kV)))
    norm(x_in, scratch[kScratchNorm], rows, hidden, use.input_norm, nullptr);
  backward(Linear::kQ, scratch[kScratchNorm], d_q, d_input, false);
  backward(Linear::kK, scratch[kScratchNorm], scratch[kScratchDK], d_input, want_d_norm);
  backward(Linear::kV, scratch[kScratchNorm], scratch[kScratchDV], d_input, want_d_norm);
  if (want_d_norm)
    norm_backward(x_in, scratch[kScratchDNorm], d_x, rows, hidden, use.input_norm,
                  gradients.d_input_norm, as_floats(saved[kSavedRstd1]), true);
}

void Decoder::block_cached(int32_t layer, const int32_t* positions, int64_t tokens, int64_t past,
                           void* x, void* k_cache, void* v_cache, const BufferSet& scratch) {
  const ModelConfig& config = model_->config;
  const int64_t hidden = config.hidden;
  const int64_t q_cols = int64_t{config.heads} * config.head_dim;
  const int64_t kv_cols = int64_t{config.kv_heads} * config.head_dim;
  const size_t row_bytes =
      static_cast<size_t>(past * kv_cols) * dtype_size(model_->options.compute);
  void* k = static_cast<char*>(k_cache) + row_bytes;
  void* v = static_cast<char*>(v_cache) + row_bytes;
  if (layer == 0) {
    prepare_rope(past + tokens);
    const int32_t offsets[4] = {0, static_cast<int32_t>(tokens), 0,
                                static_cast<int32_t>(past + tokens)};
    cache_offsets_.upload(offsets, sizeof offsets);
  }
  void* xa[kLinearCount];
  for (void*& buffer : xa) buffer = scratch[kScratchXa];

  norm(x, scratch[kScratchNorm], tokens, hidden, layers_[static_cast<size_t>(layer)].input_norm,
       nullptr);
  const Matrix h = activation(scratch[kScratchNorm], tokens, hidden);
  // With QK norm the raw projections pass through buffers that attention fills only later.
  void* q = config.qk_norm ? scratch[kScratchAttention] : scratch[kScratchQ];
  void* raw_k = config.qk_norm ? scratch[kScratchK] : k;
  linear(layer, Linear::kQ, h, activation(q, tokens, q_cols), xa[0], nullptr, 0, scratch);
  linear(layer, Linear::kK, h, activation(raw_k, tokens, kv_cols), xa[1], nullptr, 0, scratch);
  linear(layer, Linear::kV, h, activation(v, tokens, kv_cols), xa[2], nullptr, 0, scratch);
  finish_queries_and_keys(layer, tokens, positions, q, raw_k, scratch[kScratchQ], k, nullptr,
                          nullptr);
  DecoderBatch batch;
  batch.tokens = tokens;
  batch.documents = 1;
  batch.document_offsets = cache_offsets_.as<const int32_t>();
  AttentionForward op = attention(layer, batch, scratch[kScratchQ], k_cache, v_cache,
                                  scratch[kScratchAttention], nullptr, scratch);
  op.k.rows = op.v.rows = past + tokens;
  op.k_offsets = cache_offsets_.as<const int32_t>() + 2;
  ops::attention_forward(*model_->device, op);
  const Matrix residual = activation(x, tokens, hidden);
  linear(layer, Linear::kO, activation(scratch[kScratchAttention], tokens, q_cols),
         activation(scratch[kScratchMid], tokens, hidden), xa[3], &residual, 0, scratch);
  mlp(layer, tokens, scratch[kScratchMid], x, scratch[kScratchGate], scratch[kScratchUp], nullptr,
      xa, 0, scratch);
}

}  // namespace lowrank
