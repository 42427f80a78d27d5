// Forward and backward of a decoder, block by block, over buffers that the caller laid out. The
// decoder says how many bytes it needs; it never allocates.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "model/adapter.h"
#include "model/weights.h"

namespace lowrank {

// Largest micro-batch a set of buffers is made for.
struct StepShape {
  int64_t tokens = 0;
  int64_t labels = 0;
  bool training = true;
  bool head_trained = false;  // the head has a weight gradient
  int64_t cached = 0;  // longest key-value cache that block_cached() will see; 0 = it isn't called
};

struct BufferSpec {
  std::string name;
  uint64_t bytes = 0;
};

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

// One micro-batch as the device sees it (device pointers; offsets on the host and the device are
// the same on a CPU).
struct DecoderBatch {
  const int32_t* ids = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* document_offsets = nullptr;
  int32_t documents = 0;
  int64_t tokens = 0;
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
  LinearGradients linear[kLinearCount];
  float* d_input_norm = nullptr;
  float* d_post_attention_norm = nullptr;
  float* d_q_norm = nullptr;
  float* d_k_norm = nullptr;
};
struct ModelGradients {
  std::vector<LayerGradients> layers;
  float* d_embedding = nullptr;
  float* d_head = nullptr;  // equals d_embedding when tied
  float* d_final_norm = nullptr;
};

class Decoder {
 public:
  // `adapter` may be null. `max_positions` is the longest document or cache that will come; it
  // sizes the RoPE tables.
  Decoder(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
          int64_t max_positions);
  // What a decoder itself holds on the device: the RoPE tables and a few offsets.
  static uint64_t held_bytes(const ModelConfig& config, int64_t max_positions);

  // Bytes one block keeps between its forward and its backward, beside its input.
  static std::vector<BufferSpec> saved_specs(const ModelConfig& config,
                                             const std::vector<LoraModule>& modules, DType compute,
                                             const StepShape& shape);
  // Bytes shared by all blocks while one of them runs (forward and backward), and by the head.
  static std::vector<BufferSpec> scratch_specs(Device& device, const ModelConfig& config,
                                               const ModelOptions& options,
                                               const std::vector<LoraModule>& modules,
                                               const StepShape& shape);

  // x_out [T, H] = block(x_in). x_out may be x_in only when saved isn't needed again.
  void block_forward(int32_t layer, const DecoderBatch& batch, const void* x_in, void* x_out,
                     const BufferSet& saved, const BufferSet& scratch);
  // d_x [T, H]: the gradient of the block's output becomes that of its input, in place. When
  // nothing below needs it (`want_d_x` false) d_x is left undefined and the work is skipped.
  void block_backward(int32_t layer, const DecoderBatch& batch, const void* x_in, void* d_x,
                      const BufferSet& saved, const BufferSet& scratch,
                      const LayerGradients& gradients, bool want_d_x);

  void embed(const DecoderBatch& batch, void* x);
  void embed_backward(const DecoderBatch& batch, const void* d_x, float* d_embedding);

  // Final norm, head and loss. x [T, H] is the last block's output; d_x may be null (no backward)
  // or receives the gradient with respect to x.
  struct HeadInput {
    const int32_t* rows = nullptr;  // ascending, host and device
    const int32_t* targets = nullptr;
    const float* weights = nullptr;
    int32_t count = 0;
    float* logprob = nullptr;
    uint8_t* correct = nullptr;
  };
  void head(const DecoderBatch& batch, const void* x, const HeadInput& input, void* d_x,
            const BufferSet& scratch, float* d_head, float* d_final_norm);

  // Logits f32 [count, V] of rows [first, first + count) of x; for generation and tests.
  void logits(const void* x, int64_t first, int64_t count, float* logits, const BufferSet& scratch);

  // The same block with keys and values appended to a cache, for generation: k_cache and v_cache
  // [capacity, kv_heads * head_dim] already hold `past` rows.
  void block_cached(int32_t layer, const int32_t* positions, int64_t tokens, int64_t past, void* x,
                    void* k_cache, void* v_cache, const BufferSet& scratch);

  const ModelImpl& model() const { return *model_; }
  const AdapterImpl* adapter() const { return adapter_.get(); }

 private:
  // A linear as it is used: the base's weight or the adapter's full replacement, and the LoRA on
  // it.
  struct LinearUse {
    Weight weight;
    const float* bias = nullptr;
    const LoraModule* lora = nullptr;
  };
  struct LayerUse {
    LinearUse linear[kLinearCount];
    const float* input_norm = nullptr;
    const float* post_attention_norm = nullptr;
    const float* q_norm = nullptr;
    const float* k_norm = nullptr;
  };
  Weight resolve(const WeightMatrix& matrix) const;
  const float* resolve(const WeightVector& vector) const;

  Matrix activation(const void* data, int64_t rows, int64_t cols) const;
  LoraSegment segment(const LoraModule& lora, int64_t rows, int32_t layer,
                      uint64_t dropout_seed) const;
  void linear(int32_t layer, Linear which, const Matrix& x, const Matrix& y, void* xa,
              const Matrix* residual, uint64_t dropout_seed, const BufferSet& scratch) const;
  // d_x.data null: not wanted. `x` makes the op's input when a gradient needs it.
  void linear_backward(int32_t layer, Linear which, const void* x, const Matrix& d_y, Matrix d_x,
                       bool accumulate_d_x, void* xa, const LinearGradients& gradients,
                       uint64_t dropout_seed, const BufferSet& scratch) const;
  void norm(const void* x, void* y, int64_t rows, int64_t cols, const float* weight,
            float* rstd) const;
  void norm_backward(const void* x, const void* d_y, void* d_x, int64_t rows, int64_t cols,
                     const float* weight, float* d_weight, const float* rstd,
                     bool accumulate) const;
  void rotate(void* x, int64_t rows, int32_t heads, const int32_t* positions, bool inverse) const;
  // From raw projections to what attention reads: QK norm and RoPE.
  void finish_queries_and_keys(int32_t layer, int64_t rows, const int32_t* positions, const void* q,
                               const void* k, void* q_out, void* k_out, float* rstd_q,
                               float* rstd_k) const;
  void mlp(int32_t layer, int64_t rows, const void* x_mid, void* x_out, void* gate, void* up,
           float* rstd, void* const* xa, uint64_t dropout_seed, const BufferSet& scratch) const;
  AttentionForward attention(int32_t layer, const DecoderBatch& batch, const void* q, const void* k,
                             const void* v, void* out, float* lse, const BufferSet& scratch) const;
  // Dynamic scaling depends on the longest sequence of the batch.
  void prepare_rope(int64_t longest);

  std::shared_ptr<ModelImpl> model_;
  std::shared_ptr<AdapterImpl> adapter_;
  std::vector<LayerUse> layers_;
  Weight embedding_, head_;
  const float* final_norm_ = nullptr;
  Buffer rope_cos_, rope_sin_;
  int64_t rope_rows_ = 0;
  int64_t rope_longest_ = 0;
  Buffer cache_offsets_;  // two documents' offsets for block_cached(), on the device
};

}  // namespace lowrank
