// What a block architecture is to the rest of the engine. A block maps the residual stream
// [T, hidden] to itself and may attend with keys and values of [kv_heads * head_dim] per token.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/device.h"
#include "model/parameters.h"

namespace lowrank {

// Largest micro-batch a set of buffers is made for.
struct StepShape {
  int64_t tokens = 0;
  int64_t labels = 0;
  bool training = true;
  bool head_trained = false;  // the head has a weight gradient
  int64_t cached = 0;         // longest key-value cache in generation; 0 = there is none
};

struct BufferSpec {
  std::string name;
  uint64_t bytes = 0;
  bool kept = false;  // of what a block saves: by every block, also where the rest is recomputed
};

// What a block's buffers are measured by.
struct BlockSizes {
  const Device& device;
  const ModelConfig& config;
  DType compute;
  const StepShape& shape;

  // Bytes of [T, cols] activations, of [T, rank] low-rank products, and of [T, per_token] f32.
  uint64_t activations(int64_t cols) const {
    return activation_bytes(device, compute, shape.tokens, cols);
  }
  uint64_t low_rank(int64_t rank) const {
    return static_cast<uint64_t>(shape.tokens * rank) * dtype_size(compute);
  }
  uint64_t floats(int64_t per_token) const {
    return static_cast<uint64_t>(shape.tokens * per_token) * sizeof(float);
  }
};

class BlockPass;  // model/block_pass.h: what a block works on and the operations that it calls

// One layer's keys and values, [cached + T, kv_heads * head_dim] each, and where those of the T new
// tokens begin.
struct KeyValueCache {
  void *keys = nullptr, *values = nullptr;
  void *new_keys = nullptr, *new_values = nullptr;
};

// One block architecture. Everything it keeps stands in the buffers of its pass.
struct BlockKind {
  BlockParameters (*parameters)(const ModelConfig& config);
  // What a block keeps between its forward and its backward, beside its input and the low-rank
  // products of its linears; BlockPass::saved() counts in this order.
  std::vector<BufferSpec> (*saved)(const BlockSizes& sizes);
  // What it needs while it runs, beside BlockPass::normed() and d_normed(); BlockPass::scratch()
  // counts in this order.
  std::vector<BufferSpec> (*scratch)(const BlockSizes& sizes);
  // The largest workspace of its operations beside the linears.
  size_t (*workspace_bytes)(const Device& device, const BlockSizes& sizes);

  // x_out [T, H] = block(x_in); x_out may be x_in.
  void (*forward)(const BlockPass& pass, const void* x_in, void* x_out);
  // What forward() saved, again, but for buffers that are kept: linears that are `only_output` are
  // left out.
  void (*recompute)(const BlockPass& pass, const void* x_in);
  // d_x [T, H]: the gradient of the block's output becomes that of its input, in place. Without
  // `want_d_x` d_x is left undefined and the work for it is skipped.
  void (*backward)(const BlockPass& pass, const void* x_in, void* d_x, bool want_d_x);
  // forward() in place behind a cache, to which it adds the new tokens' keys and values; there are
  // no saved buffers.
  void (*forward_cached)(const BlockPass& pass, const KeyValueCache& cache, void* x);
};

}  // namespace lowrank
