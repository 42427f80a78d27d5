// A block architecture that isn't built in, from nothing but the public interface: the parallel
// block of GPT-J, x + o(attention(n)) + fc_out(silu(fc_in(n))) with n = norm(x). For f32 on a
// device that reads host memory.
#include <algorithm>

#include "model/block_pass.h"
#include "parallel_block.h"

namespace lowrank::test {
namespace {

enum LinearPlace : size_t { kQ, kK, kV, kO, kFcIn, kFcOut };
enum VectorPlace : size_t { kNorm };
enum SavedPlace : size_t { kRstd, kSavedQ, kSavedK, kSavedV, kSavedOut, kLse, kInner, kOnes };
enum ScratchPlace : size_t { kMid, kAct, kDAct, kDOut, kDK, kDV, kCachedQ, kCachedInner };

BlockParameters parameters(const ModelConfig& config) {
  const int64_t hidden = config.hidden, kv = int64_t{config.kv_heads} * config.head_dim;
  BlockParameters block;
  block.add_vector("ln_1.weight", hidden);
  block.add_linear("attn.q_proj", hidden, hidden, false);
  block.add_linear("attn.k_proj", hidden, kv, false);
  block.add_linear("attn.v_proj", hidden, kv, false);
  block.add_linear("attn.out_proj", hidden, hidden, false, true);
  block.add_linear("mlp.fc_in", hidden, config.intermediate, true);
  block.add_linear("mlp.fc_out", config.intermediate, hidden, true, true);
  return block;
}

std::vector<BufferSpec> saved(const BlockSizes& sizes) {
  const ModelConfig& config = sizes.config;
  const uint64_t x = sizes.activations(config.hidden), ffn = sizes.activations(config.intermediate);
  const uint64_t kv = sizes.activations(int64_t{config.kv_heads} * config.head_dim);
  return {{"rstd", sizes.floats(1)},
          {"q", x},
          {"k", kv},
          {"v", kv},
          {"attention", x},
          {"lse", sizes.floats(config.heads)},
          {"inner", ffn},
          {"ones", ffn}};
}

std::vector<BufferSpec> scratch(const BlockSizes& sizes) {
  const ModelConfig& config = sizes.config;
  const uint64_t x = sizes.activations(config.hidden), ffn = sizes.activations(config.intermediate);
  const uint64_t kv = sizes.activations(int64_t{config.kv_heads} * config.head_dim);
  return {{"mid", x},  {"act", ffn}, {"d_act", ffn},  {"d_out", x},
          {"d_k", kv}, {"d_v", kv},  {"cached_q", x}, {"cached_inner", ffn}};
}

// The kernels' activation has a gate, so what has none is multiplied by ones.
void activate(const BlockPass& pass, const void* inner, void* ones) {
  const int64_t ffn = pass.config().intermediate;
  std::fill_n(static_cast<float*>(ones), pass.tokens() * ffn, 1.0f);
  pass.gated_activation(inner, ones, pass.scratch(kAct), ffn);
}

void project(const BlockPass& pass, const void* x, void* q, void* k, void* v, float* rstd) {
  pass.norm(kNorm, x, pass.normed(), rstd);
  pass.linear(kQ, pass.normed(), q);
  pass.linear(kK, pass.normed(), k);
  pass.linear(kV, pass.normed(), v);
  pass.rotate(q, pass.config().heads, false);
  pass.rotate(k, pass.config().kv_heads, false);
}

void finish(const BlockPass& pass, const void* attention, const void* inner, void* ones,
            const void* x_in, void* x_out) {
  pass.linear(kO, attention, pass.scratch(kMid), x_in);
  activate(pass, inner, ones);
  pass.linear(kFcOut, pass.scratch(kAct), x_out, pass.scratch(kMid));
}

void recompute(const BlockPass& pass, const void* x_in) {
  void *q = pass.saved(kSavedQ), *k = pass.saved(kSavedK), *v = pass.saved(kSavedV);
  project(pass, x_in, q, k, v, pass.saved_floats(kRstd));
  pass.attention(q, k, v, pass.saved(kSavedOut), pass.saved_floats(kLse));
  pass.linear(kFcIn, pass.normed(), pass.saved(kInner));
}

void forward(const BlockPass& pass, const void* x_in, void* x_out) {
  recompute(pass, x_in);
  finish(pass, pass.saved(kSavedOut), pass.saved(kInner), pass.saved(kOnes), x_in, x_out);
}

void backward(const BlockPass& pass, const void* x_in, void* d_x, bool) {
  void *d_q = pass.scratch(kDOut), *d_k = pass.scratch(kDK), *d_v = pass.scratch(kDV);
  void *normed = pass.normed(), *d_normed = pass.d_normed(), *inner = pass.saved(kInner);
  activate(pass, inner, pass.saved(kOnes));
  pass.norm(kNorm, x_in, normed, nullptr);
  pass.linear_backward(kFcOut, pass.scratch(kAct), d_x, pass.scratch(kDAct), false);
  pass.gated_activation_backward(inner, pass.saved(kOnes), pass.scratch(kDAct),
                                 pass.config().intermediate);
  pass.linear_backward(kFcIn, normed, inner, d_normed, false);
  pass.linear_backward(kO, pass.saved(kSavedOut), d_x, d_q, false);
  pass.attention_backward(pass.saved(kSavedQ), pass.saved(kSavedK), pass.saved(kSavedV),
                          pass.saved(kSavedOut), pass.saved_floats(kLse), d_q, d_k, d_v);
  pass.rotate(d_q, pass.config().heads, true);
  pass.rotate(d_k, pass.config().kv_heads, true);
  pass.linear_backward(kQ, normed, d_q, d_normed, true);
  pass.linear_backward(kK, normed, d_k, d_normed, true);
  pass.linear_backward(kV, normed, d_v, d_normed, true);
  pass.norm_backward(kNorm, x_in, d_normed, d_x, pass.saved_floats(kRstd), true);
}

void forward_cached(const BlockPass& pass, const KeyValueCache& cache, void* x) {
  void* q = pass.scratch(kCachedQ);
  project(pass, x, q, cache.new_keys, cache.new_values, nullptr);
  pass.attention(q, cache.keys, cache.values, pass.scratch(kDOut), nullptr);
  pass.linear(kFcIn, pass.normed(), pass.scratch(kCachedInner));
  finish(pass, pass.scratch(kDOut), pass.scratch(kCachedInner), pass.scratch(kDAct), x, x);
}

}  // namespace

const BlockKind kParallelBlock = {
    parameters, saved,     scratch,  attention_workspace_bytes,
    forward,    recompute, backward, forward_cached,
};

}  // namespace lowrank::test
