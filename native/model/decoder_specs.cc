// How many bytes the decoder needs, for the memory plan; nothing here touches a device's memory.
#include <algorithm>

#include "model/decoder.h"
#include "model/decoder_layout.h"
#include "ops/attention.h"
#include "ops/head_loss.h"
#include "ops/linear.h"

namespace lowrank {
namespace {

int32_t max_rank(const std::vector<LoraModule>& modules, Linear linear) {
  int32_t rank = 0;
  for (const LoraModule& module : modules)
    if (module.linear == linear) rank = std::max(rank, module.rank);
  return rank;
}

int32_t max_rank(const std::vector<LoraModule>& modules) {
  int32_t rank = 0;
  for (const LoraModule& module : modules) rank = std::max(rank, module.rank);
  return rank;
}

Storage head_storage(const ModelConfig& config, const ModelOptions& options) {
  if (options.trainable || config.dtype == DType::kF32) return Storage::kF32;
  return config.dtype == DType::kBF16 ? Storage::kBF16 : Storage::kF16;
}

Storage linear_storage(const ModelConfig& config, const ModelOptions& options) {
  switch (options.quantization) {
    case Quantization::kNone:
      return head_storage(config, options);
    case Quantization::kNf4:
    case Quantization::kNf4Double:
      return Storage::kNF4;
    case Quantization::kInt8:
      return Storage::kInt8;
  }
  return Storage::kF32;
}

size_t linears_workspace(Device& device, const ModelConfig& config, const ModelOptions& options,
                         const std::vector<LoraModule>& modules, const StepShape& shape) {
  size_t bytes = 0;
  LinearShape linear;
  linear.tokens = shape.tokens;
  linear.activation = options.compute;
  linear.storage = linear_storage(config, options);
  for (const LinearInfo& info : block_linears(config)) {
    linear.in = info.in;
    linear.out = info.out;
    linear.max_rank = max_rank(modules, info.linear);
    linear.segment_count = linear.max_rank > 0 ? 1 : 0;
    linear.dropout = linear.max_rank > 0;
    linear.backward = false;
    bytes = std::max(bytes, ops::linear_workspace_bytes(device, linear));
    linear.backward = true;
    if (shape.training) bytes = std::max(bytes, ops::linear_workspace_bytes(device, linear));
  }
  // logits()
  linear.tokens = std::max<int64_t>(shape.labels, 1);
  linear.in = config.hidden;
  linear.out = config.vocabulary;
  linear.max_rank = linear.segment_count = 0;
  linear.dropout = linear.backward = false;
  linear.storage = head_storage(config, options);
  return std::max(bytes, ops::linear_workspace_bytes(device, linear));
}

size_t attention_workspace(Device& device, const ModelConfig& config, DType compute,
                           const StepShape& shape) {
  AttentionShape attention;
  attention.query_tokens = shape.tokens;
  attention.key_tokens = std::max(shape.tokens, shape.cached);
  attention.heads = config.heads;
  attention.kv_heads = config.kv_heads;
  attention.head_dim = config.head_dim;
  attention.activation = compute;
  size_t bytes = ops::attention_workspace_bytes(device, attention);
  if (shape.training) {
    attention.backward = true;
    bytes = std::max(bytes, ops::attention_workspace_bytes(device, attention));
  }
  return bytes;
}

size_t head_workspace(Device& device, const ModelConfig& config, const ModelOptions& options,
                      const StepShape& shape) {
  HeadLossShape head;
  head.labelled = shape.labels;
  head.hidden = config.hidden;
  head.vocabulary = config.vocabulary;
  head.activation = options.compute;
  size_t bytes = 0;
  // modules_to_save may put an f32 head in the base's place.
  for (const Storage storage : {head_storage(config, options), Storage::kF32}) {
    head.storage = storage;
    for (const bool backward : {false, true}) {
      if (backward && !shape.training) continue;
      head.backward = backward;
      head.weight_gradient = backward && shape.head_trained;
      bytes = std::max(bytes, ops::head_loss_workspace_bytes(device, head));
    }
  }
  return bytes;
}

}  // namespace

std::vector<BufferSpec> Decoder::saved_specs(const ModelConfig& config,
                                             const std::vector<LoraModule>& modules, DType compute,
                                             const StepShape& shape) {
  const auto tokens = static_cast<uint64_t>(shape.tokens);
  const uint64_t element = dtype_size(compute);
  const auto heads = static_cast<uint64_t>(config.heads);
  const auto kv_heads = static_cast<uint64_t>(config.kv_heads);
  const auto dim = static_cast<uint64_t>(config.head_dim);
  const uint64_t hidden = tokens * static_cast<uint64_t>(config.hidden) * element;
  const uint64_t ffn = tokens * static_cast<uint64_t>(config.intermediate) * element;
  std::vector<BufferSpec> specs = {
      {"rstd1", tokens * sizeof(float)},
      {"q", tokens * heads * dim * element},
      {"k", tokens * kv_heads * dim * element},
      {"v", tokens * kv_heads * dim * element},
      {"rstd_q", config.qk_norm ? tokens * heads * sizeof(float) : 0},
      {"rstd_k", config.qk_norm ? tokens * kv_heads * sizeof(float) : 0},
      {"attention", tokens * heads * dim * element},
      {"lse", tokens * heads * sizeof(float)},
      {"mid", hidden},
      {"rstd2", tokens * sizeof(float)},
      {"gate", ffn},
      {"up", ffn},
  };
  for (const LinearInfo& info : block_linears(config))
    specs.push_back({std::string("xa ") + info.path,
                     tokens * static_cast<uint64_t>(max_rank(modules, info.linear)) * element});
  return specs;
}

std::vector<BufferSpec> Decoder::scratch_specs(Device& device, const ModelConfig& config,
                                               const ModelOptions& options,
                                               const std::vector<LoraModule>& modules,
                                               const StepShape& shape) {
  const auto tokens = static_cast<uint64_t>(shape.tokens);
  const uint64_t element = dtype_size(options.compute);
  const uint64_t hidden = tokens * static_cast<uint64_t>(config.hidden) * element;
  const uint64_t ffn = tokens * static_cast<uint64_t>(config.intermediate) * element;
  const uint64_t q = tokens * static_cast<uint64_t>(config.heads * config.head_dim) * element;
  const uint64_t kv = tokens * static_cast<uint64_t>(config.kv_heads * config.head_dim) * element;
  const bool generating = shape.cached > 0;
  const uint64_t workspace = std::max({
      linears_workspace(device, config, options, modules, shape),
      attention_workspace(device, config, options.compute, shape),
      head_workspace(device, config, options, shape),
  });
  const auto when = [](bool wanted, uint64_t bytes) { return wanted ? bytes : 0; };
  const bool training = shape.training;
  return {
      {"norm", hidden},
      {"act", ffn},
      {"q", when(config.qk_norm || generating, q)},
      {"k", when(config.qk_norm || generating, kv)},
      {"rstd", tokens * sizeof(float)},
      {"workspace", workspace},
      {"d_norm", when(training, hidden)},
      {"d_act", when(training, ffn)},
      {"d_q", when(training, q)},
      {"d_k", when(training, kv)},
      {"d_v", when(training, kv)},
      {"v", when(generating, kv)},
      {"attention", when(generating, q)},
      {"mid", when(generating, hidden)},
      {"gate", when(generating, ffn)},
      {"up", when(generating, ffn)},
      {"xa", when(generating, tokens * static_cast<uint64_t>(max_rank(modules)) * element)},
  };
}

}  // namespace lowrank
