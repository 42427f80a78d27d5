// The engine's facade: what the Node addon, the C ABI (lowrank.h), the tests and other programs
// use. Everything here throws lowrank::Error and may be called from any thread, but one object is
// used by one thread at a time. Objects may share a device: its operations take turns, so that a
// device of one's own is only a matter of speed. Nothing here knows Node.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "engine_types.h"

namespace lowrank {

// ---- Models -------------------------------------------------------------------------------------

class ModelImpl;

// A base model on a device. Immutable while only adapters train over it.
class Model {
 public:
  // A Hugging Face folder: config.json and safetensors, one file or sharded.
  static std::shared_ptr<Model> load(std::shared_ptr<Device> device, const std::string& folder,
                                     const ModelOptions& options, const Progress& progress = {},
                                     const std::atomic<bool>* abort = nullptr);
  // Fresh weights, N(0, initializer_range), norms one, biases zero; `config_json` as in
  // config.json.
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

// Writes `model_folder` + adapter as a Hugging Face folder: W + scale * B A in f32 from the
// original weights, stored in the original type; reloads the result and compares logits on a fixed
// input.
MergeReport merge_adapter(std::shared_ptr<Device> device, const std::string& model_folder,
                          const std::string& adapter_folder, const std::string& output_folder,
                          const Progress& progress = {});

// ---- Training -----------------------------------------------------------------------------------

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
PlanReport estimate(std::shared_ptr<Device> device, const std::string& config_json,
                    const EstimateOptions& options);

// ---- Generation ---------------------------------------------------------------------------------

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
