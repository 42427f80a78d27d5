// One pass of one block: its weights, its buffers, and the operations that blocks are made of.
#pragma once

#include <cstdint>
#include <vector>

#include "model/adapter.h"
#include "model/block.h"

namespace lowrank {

// Where the buffers stand, in the order of the specs, and how large they are.
class BufferSet {
 public:
  void add(void* data, uint64_t bytes) {
    data_.push_back(data);
    bytes_.push_back(bytes);
  }
  void* operator[](size_t i) const { return data_[i]; }
  void* const* data() const { return data_.data(); }
  uint64_t bytes(size_t i) const { return bytes_[i]; }

 private:
  std::vector<void*> data_;
  std::vector<uint64_t> bytes_;
};

// The scratch buffers that the decoder lays out for every block and the head; a block's own follow.
enum ScratchBuffer : size_t {
  kScratchNorm,       // [T, H] a norm's output
  kScratchDNorm,      // [T, H] its gradient; training
  kScratchRstd,       // [T] of the final norm
  kScratchWorkspace,  // the largest workspace of any op
  kScratchXa,         // the widest linear's low-rank product; generation
  kScratchBlock
};

// One micro-batch as the device sees it (device pointers; offsets on the host and the device are
// the same on a CPU).
struct DecoderBatch {
  const int32_t* ids = nullptr;  // pointers are the device's
  const int32_t* positions = nullptr;
  const int32_t* document_offsets = nullptr;
  int32_t documents = 0;
  int64_t tokens = 0;
  int64_t longest = 0;        // tokens of the longest document; 0 = read through a cache
  uint64_t dropout_seed = 0;  // 0 = dropout off; else unique to step and micro-batch
};

// Gradient buffers of what is trained; null = frozen. f32, accumulate.
struct LinearGradients {
  float* d_weight = nullptr;
  float* d_bias = nullptr;
  float* d_a = nullptr;
  float* d_b = nullptr;
};
struct LayerGradients {
  std::vector<LinearGradients> linear;
  std::vector<float*> vector;
};

// A linear as it is used: the base's weight or the adapter's full replacement, and the LoRA on it.
struct LinearUse {
  Weight weight;
  const float* bias = nullptr;
  const LoraModule* lora = nullptr;
};
struct VectorUse {
  const float* data = nullptr;
  int64_t count = 0;
};
struct LayerUse {
  std::vector<LinearUse> linear;
  std::vector<VectorUse> vector;
};

// What the decoder hands to a pass.
struct BlockOperands {
  const ModelImpl* model = nullptr;
  float lora_dropout = 0;
  const float *rope_cos = nullptr, *rope_sin = nullptr;
  int32_t layer = 0;
  const LayerUse* weights = nullptr;
  const LayerGradients* gradients = nullptr;  // backward
  const DecoderBatch* batch = nullptr;
  // Attention's key side: the batch itself or the cache.
  const int32_t* key_offsets = nullptr;
  int64_t key_rows = 0;
  const BufferSet* saved = nullptr;  // null in generation
  const BufferSet* scratch = nullptr;
};

// Linears and vectors are called by their places in BlockKind::parameters(). Matrices are given by
// their data: activations of the compute type with a row per token, as wide as the operation says.
class BlockPass {
 public:
  explicit BlockPass(const BlockOperands& operands) : in_(operands) {}

  const ModelConfig& config() const { return in_.model->config; }
  int32_t layer() const { return in_.layer; }
  int64_t tokens() const { return in_.batch->tokens; }
  const Device& device() const { return *in_.model->device; }

  void* saved(size_t i) const { return (*in_.saved)[in_.weights->linear.size() + i]; }
  float* saved_floats(size_t i) const { return static_cast<float*>(saved(i)); }
  void* scratch(size_t i) const { return (*in_.scratch)[kScratchBlock + i]; }
  void* normed() const { return (*in_.scratch)[kScratchNorm]; }
  void* d_normed() const { return (*in_.scratch)[kScratchDNorm]; }

  // [T, cols]; ops write only what their contract says.
  Matrix activation(const void* data, int64_t cols) const { return rows(data, tokens(), cols); }

  // y = linear(x) with its bias and LoRA, plus the residual.
  void linear(size_t linear, const void* x, void* y, const void* residual = nullptr) const;
  // d_x null: not wanted. `x` is read only when wants_input().
  void linear_backward(size_t linear, const void* x, const void* d_y, void* d_x,
                       bool accumulate_d_x) const;
  // Whether linear_backward() needs the linear's input.
  bool wants_input(size_t linear) const;

  // RMSNorm over rows of the vector's length, `per_token` of them per token; rstd may be null.
  void norm(size_t vector, const void* x, void* y, float* rstd, int64_t per_token = 1) const;
  void norm_backward(size_t vector, const void* x, const void* d_y, void* d_x, const float* rstd,
                     bool accumulate_d_x, int64_t per_token = 1) const;
  bool trains_vector(size_t vector) const { return in_.gradients->vector[vector] != nullptr; }

  // RoPE on x [T, heads * head_dim] in place; `inverse` is its backward.
  void rotate(void* x, int32_t heads, bool inverse) const;

  // Causal attention inside documents with the layer's window; lse may be null.
  void attention(const void* q, const void* k, const void* v, void* out, float* lse) const;
  // d_out [T, heads * head_dim] becomes the gradient of q.
  void attention_backward(const void* q, const void* k, const void* v, const void* out,
                          const float* lse, void* d_out, void* d_k, void* d_v) const;

  // act = activation(gate) * up, [T, cols].
  void gated_activation(const void* gate, const void* up, void* act, int64_t cols) const;
  // gate and up become their gradients.
  void gated_activation_backward(void* gate, void* up, const void* d_act, int64_t cols) const;

 private:
  // `count` rows, apart as row_stride() says.
  Matrix rows(const void* data, int64_t count, int64_t cols) const;
  // Calls body(Matrix without data, bytes to its data, first of its rstd) for all rows of a norm.
  template <typename Body>
  void for_each_normed(int64_t cols, int64_t per_token, const Body& body) const;
  LoraSegment segment(const LoraModule& lora) const;
  Matrix low_rank(size_t linear, int32_t rank) const;
  AttentionForward attention_op(const void* q, const void* k, const void* v, const void* out,
                                const float* lse) const;

  BlockOperands in_;
};

// What BlockPass::attention() and its backward need.
size_t attention_workspace_bytes(const Device& device, const BlockSizes& sizes);

}  // namespace lowrank
