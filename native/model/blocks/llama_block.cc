// The block of Llama (Touvron et al., arXiv 2302.13971) and its like: x + o(attention(norm(x))),
// then x + down(activation(gate(norm(x))) * up(norm(x))), with RoPE and grouped queries; with
// biases, QK norm, windows and layers without RoPE where the configuration has them.
#include "model/block_pass.h"
#include "model/blocks/blocks.h"

namespace lowrank {
namespace {

enum LinearPlace : size_t { kQ, kK, kV, kO, kGate, kUp, kDown };
enum VectorPlace : size_t { kInputNorm, kPostAttentionNorm, kQNorm, kKNorm };

// With QK norm, kSavedQ and kSavedK are the projections before it and attention's operands are made
// again; without, they are what attention read.
enum SavedPlace : size_t {
  kSavedRstd1,
  kSavedQ,
  kSavedK,
  kSavedV,
  kSavedRstdQ,
  kSavedRstdK,
  kSavedAttention,
  kSavedLse,
  kSavedMid,
  kSavedRstd2,
  kSavedGate,
  kSavedUp,
};

enum ScratchPlace : size_t {
  kScratchAct,  // the gated activation's product
  kScratchQ,    // attention's queries (QK norm, generation)
  kScratchK,
  // backward
  kScratchDAct,
  kScratchDQ,  // also attention's output gradient
  kScratchDK,
  kScratchDV,
  // generation
  kScratchAttention,
  kScratchMid,
  kScratchGate,
  kScratchUp,
};

int64_t q_cols(const ModelConfig& config) { return int64_t{config.heads} * config.head_dim; }
int64_t kv_cols(const ModelConfig& config) { return int64_t{config.kv_heads} * config.head_dim; }

BlockParameters parameters(const ModelConfig& config) {
  const int64_t hidden = config.hidden, ffn = config.intermediate;
  const int64_t q = q_cols(config), kv = kv_cols(config);
  const int64_t head_norm = config.qk_norm ? config.head_dim : 0;
  BlockParameters block;
  block.add_vector("input_layernorm.weight", hidden);
  block.add_linear("self_attn.q_proj", hidden, q, config.qkv_bias);
  block.add_linear("self_attn.k_proj", hidden, kv, config.qkv_bias);
  block.add_linear("self_attn.v_proj", hidden, kv, config.qkv_bias);
  block.add_linear("self_attn.o_proj", q, hidden, config.output_bias);
  block.add_vector("post_attention_layernorm.weight", hidden);
  block.add_linear("mlp.gate_proj", hidden, ffn, config.mlp_bias);
  block.add_linear("mlp.up_proj", hidden, ffn, config.mlp_bias);
  block.add_linear("mlp.down_proj", ffn, hidden, config.mlp_bias, true);
  block.add_vector("self_attn.q_norm.weight", head_norm);
  block.add_vector("self_attn.k_norm.weight", head_norm);
  return block;
}

std::vector<BufferSpec> saved(const BlockSizes& sizes) {
  const ModelConfig& config = sizes.config;
  const uint64_t q = sizes.activations(q_cols(config)), kv = sizes.activations(kv_cols(config));
  const uint64_t ffn = sizes.activations(config.intermediate);
  return {
      {"rstd1", sizes.floats(1)},
      {"q", q},
      {"k", kv},
      {"v", kv},
      {"rstd_q", config.qk_norm ? sizes.floats(config.heads) : 0},
      {"rstd_k", config.qk_norm ? sizes.floats(config.kv_heads) : 0},
      {"attention", q},
      {"lse", sizes.floats(config.heads)},
      {"mid", sizes.activations(config.hidden)},
      {"rstd2", sizes.floats(1)},
      {"gate", ffn},
      {"up", ffn},
  };
}

std::vector<BufferSpec> scratch(const BlockSizes& sizes) {
  const ModelConfig& config = sizes.config;
  const uint64_t q = sizes.activations(q_cols(config)), kv = sizes.activations(kv_cols(config));
  const uint64_t ffn = sizes.activations(config.intermediate);
  const bool training = sizes.shape.training, generating = sizes.shape.cached > 0;
  const auto when = [](bool wanted, uint64_t bytes) { return wanted ? bytes : 0; };
  return {
      {"act", ffn},
      {"q", when(config.qk_norm || generating, q)},
      {"k", when(config.qk_norm || generating, kv)},
      {"d_act", when(training, ffn)},
      {"d_q", when(training, q)},
      {"d_k", when(training, kv)},
      {"d_v", when(training, kv)},
      {"attention", when(generating, q)},
      {"mid", when(generating, sizes.activations(config.hidden))},
      {"gate", when(generating, ffn)},
      {"up", when(generating, ffn)},
  };
}

// From raw projections to what attention reads: QK norm and RoPE.
void finish_queries_and_keys(const BlockPass& pass, const void* q, const void* k, void* q_out,
                             void* k_out, float* rstd_q, float* rstd_k) {
  const ModelConfig& config = pass.config();
  if (config.qk_norm) {
    pass.norm(kQNorm, q, q_out, rstd_q, config.heads);
    pass.norm(kKNorm, k, k_out, rstd_k, config.kv_heads);
  }
  if (!config.layer_uses_rope[static_cast<size_t>(pass.layer())]) return;
  pass.rotate(q_out, config.heads, false);
  pass.rotate(k_out, config.kv_heads, false);
}

void project_up(const BlockPass& pass, const void* x_mid, void* gate, void* up, float* rstd) {
  pass.norm(kPostAttentionNorm, x_mid, pass.normed(), rstd);
  pass.linear(kGate, pass.normed(), gate);
  pass.linear(kUp, pass.normed(), up);
}

void project_down(const BlockPass& pass, const void* x_mid, const void* gate, const void* up,
                  void* x_out) {
  void* act = pass.scratch(kScratchAct);
  pass.gated_activation(gate, up, act, pass.config().intermediate);
  pass.linear(kDown, act, x_out, x_mid);
}

void recompute(const BlockPass& pass, const void* x_in) {
  const bool qk_norm = pass.config().qk_norm;
  void *raw_q = pass.saved(kSavedQ), *raw_k = pass.saved(kSavedK), *v = pass.saved(kSavedV);
  pass.norm(kInputNorm, x_in, pass.normed(), pass.saved_floats(kSavedRstd1));
  pass.linear(kQ, pass.normed(), raw_q);
  pass.linear(kK, pass.normed(), raw_k);
  pass.linear(kV, pass.normed(), v);
  void* q = qk_norm ? pass.scratch(kScratchQ) : raw_q;
  void* k = qk_norm ? pass.scratch(kScratchK) : raw_k;
  finish_queries_and_keys(pass, raw_q, raw_k, q, k, pass.saved_floats(kSavedRstdQ),
                          pass.saved_floats(kSavedRstdK));
  pass.attention(q, k, v, pass.saved(kSavedAttention), pass.saved_floats(kSavedLse));
  pass.linear(kO, pass.saved(kSavedAttention), pass.saved(kSavedMid), x_in);
  project_up(pass, pass.saved(kSavedMid), pass.saved(kSavedGate), pass.saved(kSavedUp),
             pass.saved_floats(kSavedRstd2));
}

void forward(const BlockPass& pass, const void* x_in, void* x_out) {
  recompute(pass, x_in);
  project_down(pass, pass.saved(kSavedMid), pass.saved(kSavedGate), pass.saved(kSavedUp), x_out);
}

void mlp_backward(const BlockPass& pass, void* d_x) {
  const int64_t ffn = pass.config().intermediate;
  // The saved gate and up become their own gradients.
  void *gate = pass.saved(kSavedGate), *up = pass.saved(kSavedUp), *mid = pass.saved(kSavedMid);
  void *act = pass.scratch(kScratchAct), *d_act = pass.scratch(kScratchDAct);
  if (pass.wants_input(kDown)) pass.gated_activation(gate, up, act, ffn);
  pass.linear_backward(kDown, act, d_x, d_act, false);
  pass.gated_activation_backward(gate, up, d_act, ffn);
  if (pass.wants_input(kGate) || pass.wants_input(kUp))
    pass.norm(kPostAttentionNorm, mid, pass.normed(), nullptr);
  pass.linear_backward(kGate, pass.normed(), gate, pass.d_normed(), false);
  pass.linear_backward(kUp, pass.normed(), up, pass.d_normed(), true);
  pass.norm_backward(kPostAttentionNorm, mid, pass.d_normed(), d_x, pass.saved_floats(kSavedRstd2),
                     true);
}

// From d_x to the gradients of the raw projections.
void attention_backward(const BlockPass& pass, const void* d_x, void* d_q, void* d_k, void* d_v) {
  const ModelConfig& config = pass.config();
  void *raw_q = pass.saved(kSavedQ), *raw_k = pass.saved(kSavedK);
  float *rstd_q = pass.saved_floats(kSavedRstdQ), *rstd_k = pass.saved_floats(kSavedRstdK);
  // The output's gradient becomes that of the queries.
  pass.linear_backward(kO, pass.saved(kSavedAttention), d_x, d_q, false);
  void *q = raw_q, *k = raw_k;
  if (config.qk_norm) {
    q = pass.scratch(kScratchQ);
    k = pass.scratch(kScratchK);
    finish_queries_and_keys(pass, raw_q, raw_k, q, k, rstd_q, rstd_k);
  }
  pass.attention_backward(q, k, pass.saved(kSavedV), pass.saved(kSavedAttention),
                          pass.saved_floats(kSavedLse), d_q, d_k, d_v);
  if (config.layer_uses_rope[static_cast<size_t>(pass.layer())]) {
    pass.rotate(d_q, config.heads, true);
    pass.rotate(d_k, config.kv_heads, true);
  }
  if (config.qk_norm) {
    pass.norm_backward(kQNorm, raw_q, d_q, d_q, rstd_q, false, config.heads);
    pass.norm_backward(kKNorm, raw_k, d_k, d_k, rstd_k, false, config.kv_heads);
  }
}

void backward(const BlockPass& pass, const void* x_in, void* d_x, bool want_d_x) {
  mlp_backward(pass, d_x);
  void *d_q = pass.scratch(kScratchDQ), *d_k = pass.scratch(kScratchDK);
  void* d_v = pass.scratch(kScratchDV);
  attention_backward(pass, d_x, d_q, d_k, d_v);

  const bool want_d_norm = want_d_x || pass.trains_vector(kInputNorm);
  void* d_norm = want_d_norm ? pass.d_normed() : nullptr;
  if (pass.wants_input(kQ) || pass.wants_input(kK) || pass.wants_input(kV))
    pass.norm(kInputNorm, x_in, pass.normed(), nullptr);
  pass.linear_backward(kQ, pass.normed(), d_q, d_norm, false);
  pass.linear_backward(kK, pass.normed(), d_k, d_norm, true);
  pass.linear_backward(kV, pass.normed(), d_v, d_norm, true);
  if (want_d_norm)
    pass.norm_backward(kInputNorm, x_in, d_norm, d_x, pass.saved_floats(kSavedRstd1), true);
}

void forward_cached(const BlockPass& pass, const KeyValueCache& cache, void* x) {
  const bool qk_norm = pass.config().qk_norm;
  void *q = pass.scratch(kScratchQ), *attention = pass.scratch(kScratchAttention);
  void *k = cache.new_keys, *v = cache.new_values;
  // With QK norm the raw projections pass through buffers that attention fills only later.
  void* raw_q = qk_norm ? attention : q;
  void* raw_k = qk_norm ? pass.scratch(kScratchK) : k;
  pass.norm(kInputNorm, x, pass.normed(), nullptr);
  pass.linear(kQ, pass.normed(), raw_q);
  pass.linear(kK, pass.normed(), raw_k);
  pass.linear(kV, pass.normed(), v);
  finish_queries_and_keys(pass, raw_q, raw_k, q, k, nullptr, nullptr);
  pass.attention(q, cache.keys, cache.values, attention, nullptr);
  void* mid = pass.scratch(kScratchMid);
  void *gate = pass.scratch(kScratchGate), *up = pass.scratch(kScratchUp);
  pass.linear(kO, attention, mid, x);
  project_up(pass, mid, gate, up, nullptr);
  project_down(pass, mid, gate, up, x);
}

}  // namespace

const BlockKind kLlamaBlock = {
    parameters, saved,     scratch,  attention_workspace_bytes,
    forward,    recompute, backward, forward_cached,
};

}  // namespace lowrank
