// The facade's plain types: options, reports and batches. Every layer from model/ up may include
// this; engine.h has the classes.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace lowrank {

// ---- Models -------------------------------------------------------------------------------------

enum class Quantization : uint8_t { kNone = 0, kNf4 = 1, kNf4Double = 2, kInt8 = 3 };

struct ModelOptions {
  DType compute = DType::kF32;  // type of activations: f32 or bf16
  Quantization quantization = Quantization::kNone;
  // Every weight becomes an f32 master copy that can be trained. Not with quantization.
  bool trainable = false;
  // Longest position that will be used; 0 = the model's max_position_embeddings.
  int32_t max_length = 0;
  // Weights that keep the file's type are copied to memory of large pages, which is read faster, if
  // half of what is free holds the model. Else, and by default, they stay in the mapped file, whose
  // memory processes share.
  bool copy_weights = false;
};

struct ModelInfo {
  std::string family;  // "llama", "mistral", "qwen2", "qwen3", "smollm3"
  std::string path;    // folder it was loaded from; empty for a fresh model
  int64_t vocabulary = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0,
          head_dim = 0, max_positions = 0;
  bool tied_embeddings = false;
  int64_t parameters = 0;
  uint64_t weight_bytes = 0;  // as held on the device
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1, pad_token_id = -1;
  std::string compute, quantization, device, isa;
};

using Progress = std::function<void(int64_t done, int64_t total)>;

// ---- Adapters -----------------------------------------------------------------------------------

// Names and meaning as in PEFT's LoraConfig.
struct LoraOptions {
  int32_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  bool use_rslora = false;
  std::vector<std::string> target_modules;  // names or suffixes; "all-linear" alone = every linear
  std::string target_pattern;               // a regular expression on the full name, instead
  std::map<std::string, int32_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<std::string> modules_to_save;  // trained in full: "lm_head", "embed_tokens", norms
};

struct AdapterInfo {
  LoraOptions options;
  std::vector<std::string> modules;  // full names of the adapted linears
  int64_t parameters = 0;
};

struct MergeReport {
  double max_logit_difference = 0;  // merged and reloaded, against base with adapter
  double max_logit = 0;             // largest absolute logit, for scale
  int64_t tensors_merged = 0;
};

// ---- Training -----------------------------------------------------------------------------------

enum class Checkpointing : uint8_t { kNone = 0, kBlock = 1, kAuto = 2 };
enum class Optimizer : uint8_t { kAdamW = 0, kAdamW8Bit = 1 };

struct SessionOptions {
  Optimizer optimizer = Optimizer::kAdamW;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  float weight_decay = 0;   // never on norms and biases
  float max_grad_norm = 1;  // 0 = no clipping
  uint64_t seed = 42;       // dropout
  // The largest micro-batch that will come; buffers are laid out for it once.
  int64_t max_tokens = 0;
  int64_t max_labels = 0;  // 0 = max_tokens
  Checkpointing checkpointing = Checkpointing::kAuto;
  uint64_t memory_budget = 0;  // bytes for kAuto; 0 = what the device has free
};

// Token t's label is the token it is trained to *be* (Hugging Face convention: aligned with
// input_ids, -100 = none); the engine shifts by one inside each document, and a document's first
// label is never used. `weights` (null = ones) are aligned with labels.
struct MicroBatch {
  const int32_t* input_ids = nullptr;
  const int32_t* labels = nullptr;
  const float* weights = nullptr;
  int64_t tokens = 0;
  // documents + 1 offsets, first 0, last = tokens. Positions restart at 0 in each document.
  const int32_t* document_offsets = nullptr;
  int32_t documents = 0;
};

struct StepOptions {
  float learning_rate = 0;
  int64_t step = 0;  // from 1; keys dropout and bias correction
};

// Losses are in nats per unit of label weight over *all* micro-batches: sum(w * ce) / sum(w).
struct StepResult {
  double loss = 0;
  double grad_norm = 0;  // before clipping
  double weight = 0;     // sum of label weights
  int64_t tokens = 0, label_tokens = 0, correct = 0;
  double seconds = 0;
  bool aborted = false;  // nothing was changed
};

struct PlanItem {
  std::string name;
  uint64_t bytes = 0;
};
struct PlanReport {
  std::vector<PlanItem>
      items;                 // "weights", "adapter", "gradients", "optimizer", "activations", ...
  uint64_t total_bytes = 0;  // predicted peak of the device, without what the process had before
  int32_t recomputed_layers = 0, layers = 0;
  std::string checkpointing;
};

struct EstimateOptions {
  ModelOptions model;
  std::optional<LoraOptions> lora;  // absent = full fine-tuning
  SessionOptions session;
};

// ---- Generation ---------------------------------------------------------------------------------

struct SamplingOptions {
  float temperature = 0;  // 0 = the most likely token
  int32_t top_k = 0;      // 0 = off
  float top_p = 1;
  uint64_t seed = 0;
};

}  // namespace lowrank
