// Forward and backward of a decoder, block by block, over buffers that the caller laid out. The
// decoder says how many bytes it needs; it never allocates.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/adapter.h"
#include "model/block.h"
#include "model/block_pass.h"
#include "model/weights.h"

namespace lowrank {

struct ModelGradients {
  std::vector<LayerGradients> layers;
  float* d_embedding = nullptr;
  float* d_head = nullptr;  // equals d_embedding when tied
  float* d_final_norm = nullptr;
};

// With an empty place for every parameter.
ModelGradients make_gradients(const ModelConfig& config);

class Decoder {
 public:
  // `adapter` may be null. `max_positions` is the longest document or cache that will come; it
  // sizes the RoPE tables.
  Decoder(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
          int64_t max_positions);
  // What a decoder itself holds on the device: the RoPE tables and a few offsets.
  static uint64_t held_bytes(const ModelConfig& config, int64_t max_positions);

  // Bytes one block keeps between its forward and its backward, beside its input.
  static std::vector<BufferSpec> saved_specs(const Device& device, const ModelConfig& config,
                                             const std::vector<LoraModule>& modules, DType compute,
                                             const StepShape& shape);
  // Bytes shared by all blocks while one of them runs (forward and backward), and by the head.
  static std::vector<BufferSpec> scratch_specs(const Device& device, const ModelConfig& config,
                                               const ModelOptions& options,
                                               const std::vector<LoraModule>& modules,
                                               const StepShape& shape);

  // x_out [T, H] = block(x_in). x_out may be x_in only when saved isn't needed again.
  void block_forward(int32_t layer, const DecoderBatch& batch, const void* x_in, void* x_out,
                     const BufferSet& saved, const BufferSet& scratch);
  // What block_forward() left in `saved`, again, from what it was given.
  void block_recompute(int32_t layer, const DecoderBatch& batch, const void* x_in,
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
  Weight resolve(const WeightMatrix& matrix) const;
  Weight resolve_head() const;
  const float* resolve(const WeightVector& vector) const;

  Matrix activation(const void* data, int64_t rows, int64_t cols) const;
  BlockOperands operands(int32_t layer, const DecoderBatch& batch, const BufferSet& scratch) const;
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
