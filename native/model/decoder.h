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
  int64_t cached = 0;  // longest key-value cache that block_cached() will see; 0 = it isn't called
};

struct BufferSpec {
  std::string name;
  uint64_t bytes = 0;
};

// Where the buffers stand, in the order of the specs.
using BufferSet = std::vector<void*>;

// One micro-batch as the device sees it (device pointers; offsets on the host and the device are the
// same on a CPU).
struct DecoderBatch {
  const int32_t* ids = nullptr;
  const int32_t* positions = nullptr;
  const int32_t* document_offsets = nullptr;
  int32_t documents = 0;
  int64_t tokens = 0;
  uint64_t dropout_seed = 0;     // 0 = dropout off; else unique to step and micro-batch
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
  float* d_head = nullptr;       // equals d_embedding when tied
  float* d_final_norm = nullptr;
};

class Decoder {
 public:
  // `adapter` may be null. `max_positions` is the longest document or cache that will come; it sizes
  // the RoPE tables, which hold rope_bytes() on the device.
  Decoder(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
          int64_t max_positions);
  static uint64_t rope_bytes(const ModelConfig& config, int64_t max_positions);

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
  // d_x [T, H]: the gradient of the block's output becomes that of its input, in place. When nothing
  // below needs it (`want_d_x` false) d_x is left undefined and the work is skipped.
  void block_backward(int32_t layer, const DecoderBatch& batch, const void* x_in, void* d_x,
                      const BufferSet& saved, const BufferSet& scratch,
                      const LayerGradients& gradients, bool want_d_x);

  void embed(const DecoderBatch& batch, void* x);
  void embed_backward(const DecoderBatch& batch, const void* d_x, float* d_embedding);

  // Final norm, head and loss. x [T, H] is the last block's output; d_x may be null (no backward) or
  // receives the gradient with respect to x.
  struct HeadInput {
    const int32_t* rows = nullptr;      // ascending, host and device
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
  void block_cached(int32_t layer, const int32_t* positions, int64_t tokens, int64_t past,
                    void* x, void* k_cache, void* v_cache, const BufferSet& scratch);

  const ModelImpl& model() const { return *model_; }
  const AdapterImpl* adapter() const { return adapter_.get(); }
  // The lowest layer with something to train; blocks below it need no backward.
  int32_t lowest_trained_layer() const;

 private:
  std::shared_ptr<ModelImpl> model_;
  std::shared_ptr<AdapterImpl> adapter_;
  Buffer rope_cos_, rope_sin_;
  int32_t rope_rows_ = 0;
};

}  // namespace lowrank
