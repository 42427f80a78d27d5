#include "model/block_pass.h"

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "ops/attention.h"
#include "ops/gated_activation.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"

namespace lowrank {

Matrix BlockPass::rows(const void* data, int64_t count, int64_t cols) const {
  const DType dtype = in_.model->options.compute;
  return {const_cast<void*>(data), dtype, count, cols, row_stride(device(), dtype, cols)};
}

LoraSegment BlockPass::segment(const LoraModule& lora) const {
  LoraSegment segment;
  segment.row_end = tokens();
  segment.a = lora.a.as<const float>();
  segment.b = lora.b.as<const float>();
  segment.rank = lora.rank;
  segment.scale = lora.scale;
  if (in_.batch->dropout_seed != 0 && in_.lora_dropout > 0) {
    segment.dropout = in_.lora_dropout;
    segment.dropout_key =
        random_key(in_.batch->dropout_seed, RandomUse::kDropout, static_cast<uint64_t>(in_.layer),
                   static_cast<uint64_t>(lora.linear));
  }
  return segment;
}

Matrix BlockPass::low_rank(size_t linear, int32_t rank) const {
  void* data = in_.saved ? (*in_.saved)[linear] : (*in_.scratch)[kScratchXa];
  return {data, in_.model->options.compute, tokens(), rank, rank};
}

void BlockPass::linear(size_t linear, const void* x, void* y, const void* residual) const {
  const LinearUse& use = in_.weights->linear[linear];
  LinearForward op;
  op.x = activation(x, use.weight.cols);
  op.y = activation(y, use.weight.rows);
  op.weight = use.weight;
  op.bias = use.bias;
  const Matrix added = activation(residual, use.weight.rows);
  if (residual) op.residual = &added;
  LoraSegment lora;
  if (use.lora) {
    lora = segment(*use.lora);
    op.segments = &lora;
    op.segment_count = 1;
    op.xa = low_rank(linear, use.lora->rank);
  }
  op.workspace = (*in_.scratch)[kScratchWorkspace];
  op.workspace_bytes = in_.scratch->bytes(kScratchWorkspace);
  ops::linear_forward(device(), op);
}

void BlockPass::linear_backward(size_t linear, const void* x, const void* d_y, void* d_x,
                                bool accumulate_d_x) const {
  const LinearUse& use = in_.weights->linear[linear];
  const LinearGradients& gradients = in_.gradients->linear[linear];
  LinearBackward op;
  op.d_y = activation(d_y, use.weight.rows);
  if (d_x) op.d_x = activation(d_x, use.weight.cols);
  op.accumulate_d_x = d_x && accumulate_d_x;
  op.weight = use.weight;
  op.d_weight = gradients.d_weight;
  op.d_bias = gradients.d_bias;
  LoraSegment lora;
  if (use.lora) {
    lora = segment(*use.lora);
    lora.d_a = gradients.d_a;
    lora.d_b = gradients.d_b;
    op.segments = &lora;
    op.segment_count = 1;
    op.xa = low_rank(linear, use.lora->rank);
  }
  if (wants_input(linear)) op.x = activation(x, use.weight.cols);
  op.workspace = (*in_.scratch)[kScratchWorkspace];
  op.workspace_bytes = in_.scratch->bytes(kScratchWorkspace);
  ops::linear_backward(device(), op);
}

bool BlockPass::wants_input(size_t linear) const {
  const LinearGradients& gradients = in_.gradients->linear[linear];
  return gradients.d_weight || gradients.d_a;
}

// Heads are rows of their own where nothing stands between a token and the next; else each head's
// column is gone over for all tokens, and its rstd stand together.
template <typename Body>
void BlockPass::for_each_normed(int64_t cols, int64_t per_token, const Body& body) const {
  const DType dtype = in_.model->options.compute;
  const int64_t width = cols * per_token, stride = row_stride(device(), dtype, width);
  if (stride == width)
    return body(Matrix{nullptr, dtype, tokens() * per_token, cols, cols}, size_t{0}, int64_t{0});
  for (int64_t i = 0; i < per_token; ++i)
    body(Matrix{nullptr, dtype, tokens(), cols, stride},
         static_cast<size_t>(i * cols) * dtype_size(dtype), i * tokens());
}

namespace {

Matrix placed(Matrix shape, const void* data, size_t offset) {
  shape.data = static_cast<char*>(const_cast<void*>(data)) + offset;
  return shape;
}

}  // namespace

void BlockPass::norm(size_t vector, const void* x, void* y, float* rstd, int64_t per_token) const {
  const VectorUse& weight = in_.weights->vector[vector];
  for_each_normed(weight.count, per_token, [&](const Matrix& shape, size_t offset, int64_t first) {
    ops::rms_norm_forward(device(),
                          {placed(shape, x, offset), placed(shape, y, offset), weight.data,
                           config().rms_norm_eps, rstd ? rstd + first : nullptr});
  });
}

void BlockPass::norm_backward(size_t vector, const void* x, const void* d_y, void* d_x,
                              const float* rstd, bool accumulate_d_x, int64_t per_token) const {
  const VectorUse& weight = in_.weights->vector[vector];
  for_each_normed(weight.count, per_token, [&](const Matrix& shape, size_t offset, int64_t first) {
    ops::rms_norm_backward(
        device(), {placed(shape, x, offset), placed(shape, d_y, offset), placed(shape, d_x, offset),
                   accumulate_d_x, weight.data, in_.gradients->vector[vector], rstd + first});
  });
}

void BlockPass::rotate(void* x, int32_t heads, bool inverse) const {
  Rope op;
  op.x = activation(x, int64_t{heads} * config().head_dim);
  op.heads = heads;
  op.head_dim = config().head_dim;
  op.rotary_dim = config().rotary_dim;
  op.positions = in_.batch->positions;
  op.cos = in_.rope_cos;
  op.sin = in_.rope_sin;
  op.inverse = inverse;
  ops::rope(device(), op);
}

AttentionForward BlockPass::attention_op(const void* q, const void* k, const void* v,
                                         const void* out, const float* lse) const {
  const ModelConfig& config = this->config();
  const int64_t q_cols = int64_t{config.heads} * config.head_dim;
  const int64_t kv_cols = int64_t{config.kv_heads} * config.head_dim;
  AttentionForward op;
  op.q = activation(q, q_cols);
  op.k = rows(k, in_.key_rows, kv_cols);
  op.v = rows(v, in_.key_rows, kv_cols);
  op.out = activation(out, q_cols);
  op.lse = const_cast<float*>(lse);
  op.q_offsets = in_.batch->document_offsets;
  op.k_offsets = in_.key_offsets;
  op.documents = in_.batch->documents;
  op.heads = config.heads;
  op.kv_heads = config.kv_heads;
  op.head_dim = config.head_dim;
  op.window = config.layer_window[static_cast<size_t>(in_.layer)];
  op.scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim));
  op.workspace = (*in_.scratch)[kScratchWorkspace];
  op.workspace_bytes = in_.scratch->bytes(kScratchWorkspace);
  return op;
}

void BlockPass::attention(const void* q, const void* k, const void* v, void* out,
                          float* lse) const {
  ops::attention_forward(device(), attention_op(q, k, v, out, lse));
}

void BlockPass::attention_backward(const void* q, const void* k, const void* v, const void* out,
                                   const float* lse, void* d_out, void* d_k, void* d_v) const {
  AttentionBackward op;
  op.forward = attention_op(q, k, v, out, lse);
  op.d_out = activation(d_out, op.forward.q.cols);
  op.d_q = op.d_out;
  op.d_k = activation(d_k, op.forward.k.cols);
  op.d_v = activation(d_v, op.forward.v.cols);
  ops::attention_backward(device(), op);
}

void BlockPass::gated_activation(const void* gate, const void* up, void* act, int64_t cols) const {
  ops::gated_activation_forward(device(), {activation(gate, cols), activation(up, cols),
                                           activation(act, cols), config().activation});
}

void BlockPass::gated_activation_backward(void* gate, void* up, const void* d_act,
                                          int64_t cols) const {
  const Matrix gate_matrix = activation(gate, cols), up_matrix = activation(up, cols);
  ops::gated_activation_backward(device(), {gate_matrix, up_matrix, activation(d_act, cols),
                                            gate_matrix, up_matrix, config().activation});
}

size_t attention_workspace_bytes(const Device& device, const BlockSizes& sizes) {
  AttentionShape attention;
  attention.query_tokens = sizes.shape.tokens;
  attention.key_tokens = std::max(sizes.shape.tokens, sizes.shape.cached);
  attention.heads = sizes.config.heads;
  attention.kv_heads = sizes.config.kv_heads;
  attention.head_dim = sizes.config.head_dim;
  attention.activation = sizes.compute;
  size_t bytes = ops::attention_workspace_bytes(device, attention);
  if (sizes.shape.training) {
    attention.backward = true;
    bytes = std::max(bytes, ops::attention_workspace_bytes(device, attention));
  }
  return bytes;
}

}  // namespace lowrank
