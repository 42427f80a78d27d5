// The engine's facade: what the Node addon, the C ABI (lowrank.h), the tests and other programs use.
// Everything here throws lowrank::Error and may be called from any thread, but one object is used by
// one thread at a time. Nothing here knows Node.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/device.h"

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
};

struct ModelInfo {
  std::string family;            // "llama", "mistral", "qwen2", "qwen3", "smollm3"
  std::string path;              // folder it was loaded from; empty for a fresh model
  int64_t vocabulary = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0,
          head_dim = 0, max_positions = 0;
  bool tied_embeddings = false;
  int64_t parameters = 0;
  uint64_t weight_bytes = 0;     // as held on the device
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1, pad_token_id = -1;
  std::string compute, quantization, device, isa;
};

using Progress = std::function<void(int64_t done, int64_t total)>;

class ModelImpl;

// A base model on a device. Immutable while only adapters train over it.
class Model {
 public:
  // A Hugging Face folder: config.json and safetensors, one file or sharded.
  static std::shared_ptr<Model> load(std::shared_ptr<Device> device, const std::string& folder,
                                     const ModelOptions& options, const Progress& progress = {},
                                     const std::atomic<bool>* abort = nullptr);
  // Fresh weights, N(0, initializer_range), norms one, biases zero; `config_json` as in config.json.
  static std::shared_ptr<Model> create(std::shared_ptr<Device> device,
                                       const std::string& config_json, const ModelOptions& options,
                                       uint64_t seed);
  ModelInfo info() const;
  // Writes config.json and model.safetensors (sharded above 5 GB) with tensors of type `dtype`.
  // Not for quantized models.
  void save(const std::string& folder, DType dtype) const;

  explicit Model(std::shared_ptr<ModelImpl> impl) : impl_(std::move(impl)) {}
  const std::shared_ptr<ModelImpl>& impl() const { return impl_; }

 private:
  std::shared_ptr<ModelImpl> impl_;
};

// ---- Adapters -----------------------------------------------------------------------------------

// Names and meaning as in PEFT's LoraConfig.
struct LoraOptions {
  int32_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  bool use_rslora = false;
  std::vector<std::string> target_modules;   // names or suffixes; "all-linear" alone = every linear
  std::string target_pattern;                // a regular expression on the full name, instead
  std::map<std::string, int32_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  std::vector<std::string> modules_to_save;  // trained in full: "lm_head", "embed_tokens", norms
};

struct AdapterInfo {
  LoraOptions options;
  std::vector<std::string> modules;  // full names of the adapted linears
  int64_t parameters = 0;
};

class AdapterImpl;

class Adapter {
 public:
  // A ~ U(-1/sqrt(in), 1/sqrt(in)) (PEFT's kaiming_uniform with a = sqrt 5), B = 0.
  static std::shared_ptr<Adapter> create(const Model& model, const LoraOptions& options,
                                         uint64_t seed);
  // A PEFT folder; it must fit the model.
  static std::shared_ptr<Adapter> load(const Model& model, const std::string& folder);
  AdapterInfo info() const;
  // A PEFT folder: adapter_config.json and adapter_model.safetensors, complete or absent.
  // `base_model_name` goes into adapter_config.json; empty = the model's folder.
  void save(const std::string& folder, const std::string& base_model_name = {}) const;

  explicit Adapter(std::shared_ptr<AdapterImpl> impl) : impl_(std::move(impl)) {}
  const std::shared_ptr<AdapterImpl>& impl() const { return impl_; }

 private:
  std::shared_ptr<AdapterImpl> impl_;
};

// Writes `model_folder` + adapter as a Hugging Face folder: W + scale * B A in f32 from the original
// weights, stored in the original type; reloads the result and compares logits on a fixed input.
struct MergeReport {
  double max_logit_difference = 0;  // merged and reloaded, against base with adapter
  double max_logit = 0;             // largest absolute logit, for scale
  int64_t tensors_merged = 0;
};
MergeReport merge_adapter(std::shared_ptr<Device> device, const std::string& model_folder,
                          const std::string& adapter_folder, const std::string& output_folder,
                          const Progress& progress = {});

// ---- Training -----------------------------------------------------------------------------------

enum class Checkpointing : uint8_t { kNone = 0, kBlock = 1, kAuto = 2 };
enum class Optimizer : uint8_t { kAdamW = 0, kAdamW8Bit = 1 };

struct SessionOptions {
  Optimizer optimizer = Optimizer::kAdamW;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  float weight_decay = 0;        // never on norms and biases
  float max_grad_norm = 1;       // 0 = no clipping
  uint64_t seed = 42;            // dropout
  // The largest micro-batch that will come; buffers are laid out for it once.
  int64_t max_tokens = 0;
  int64_t max_labels = 0;        // 0 = max_tokens
  Checkpointing checkpointing = Checkpointing::kAuto;
  uint64_t memory_budget = 0;    // bytes for kAuto; 0 = what the device has free
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
  double grad_norm = 0;      // before clipping
  double weight = 0;         // sum of label weights
  int64_t tokens = 0, label_tokens = 0, correct = 0;
  double seconds = 0;
  bool aborted = false;      // nothing was changed
};

struct PlanItem {
  std::string name;
  uint64_t bytes = 0;
};
struct PlanReport {
  std::vector<PlanItem> items;  // "weights", "adapter", "gradients", "optimizer", "activations", ...
  uint64_t total_bytes = 0;     // predicted peak of the device, without what the process had before
  int32_t recomputed_layers = 0, layers = 0;
  std::string checkpointing;
};

class SessionImpl;

class Session {
 public:
  // Trains `adapter`, or every weight of the (trainable) model when it is null. Throws
  // Error{kOutOfMemory} naming the plan's figure when the plan doesn't fit.
  Session(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter,
          const SessionOptions& options);
  ~Session();

  // One optimizer step over all micro-batches: forward, backward, clip, update. `abort` is checked
  // between micro-batches. A NaN or infinite loss or gradient throws Error{kNotFinite} and leaves
  // parameters and optimizer as they were.
  StepResult step(const std::vector<MicroBatch>& batches, const StepOptions& options,
                  const std::atomic<bool>* abort = nullptr);
  // Loss only (dropout off). `per_token` (null, or sum of tokens) gets each label's log-probability
  // at the label's index and 0 elsewhere.
  StepResult evaluate(const std::vector<MicroBatch>& batches, float* per_token = nullptr,
                      const std::atomic<bool>* abort = nullptr);
  // The same forward and backward as step() without the update: fills gradients; for tests and
  // parity checks. Names as in the PEFT or Hugging Face files.
  StepResult gradients(const std::vector<MicroBatch>& batches, int64_t step,
                       std::map<std::string, std::vector<float>>* out);
  PlanReport plan() const;

  // Optimizer states as one safetensors file; bit-exact. load_state checks names and shapes.
  void save_state(const std::string& file) const;
  void load_state(const std::string& file);

 private:
  std::unique_ptr<SessionImpl> impl_;
};

// The memory plan of a training run from config.json alone; no weights are read.
struct EstimateOptions {
  ModelOptions model;
  std::optional<LoraOptions> lora;  // absent = full fine-tuning
  SessionOptions session;
};
PlanReport estimate(std::shared_ptr<Device> device, const std::string& config_json,
                    const EstimateOptions& options);

// ---- Generation ---------------------------------------------------------------------------------

struct SamplingOptions {
  float temperature = 0;  // 0 = the most likely token
  int32_t top_k = 0;      // 0 = off
  float top_p = 1;
  uint64_t seed = 0;
};

class GeneratorImpl;

class Generator {
 public:
  // `adapter` may be null. The cache holds `capacity` tokens.
  Generator(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter, int32_t capacity);
  ~Generator();

  // Forgets what it holds and reads the prompt. `abort` is checked between layers and chunks.
  void prefill(const int32_t* ids, int64_t count, const std::atomic<bool>* abort = nullptr);
  // Logits [vocabulary] of the next token.
  const std::vector<float>& logits();
  // Samples the next token from the logits and reads it, so that it can be called again.
  int32_t next(const SamplingOptions& options);
  int64_t length() const;
  uint64_t cache_bytes() const;

 private:
  std::unique_ptr<GeneratorImpl> impl_;
};

// Logits [tokens, vocabulary] of one document, for tests and parity checks.
std::vector<float> forward_logits(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter,
                                  const int32_t* ids, int64_t count);

const char* engine_version();

}  // namespace lowrank
