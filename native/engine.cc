// The facade of engine.h over the layers below.
#include "engine.h"

#include "core/error.h"
#include "model/adapter.h"
#include "model/forward_logits.h"
#include "model/generator.h"
#include "model/prequantized.h"
#include "model/weights.h"
#include "train/plan.h"
#include "train/session_impl.h"

namespace lowrank {
namespace {

const char* quantization_name(Quantization quantization) {
  switch (quantization) {
    case Quantization::kNone:
      return "none";
    case Quantization::kNf4:
      return "nf4";
    case Quantization::kNf4Double:
      return "nf4-double";
    case Quantization::kInt8:
      return "int8";
  }
  return "?";
}

int64_t element_count(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

std::shared_ptr<AdapterImpl> impl_of(const std::shared_ptr<Model>& model,
                                     const std::shared_ptr<Adapter>& adapter) {
  if (!adapter) return nullptr;
  if (adapter->impl()->model != model->impl())
    throw Error(ErrorCode::kInvalidArgument, "the adapter was made for another model", "adapter",
                "create or load it on this model");
  return adapter->impl();
}

}  // namespace

std::shared_ptr<Model> Model::load(std::shared_ptr<Device> device, const std::string& folder,
                                   const ModelOptions& options, const Progress& progress,
                                   const std::atomic<bool>* abort) {
  return std::make_shared<Model>(load_model(std::move(device), folder, options, progress, abort));
}

std::shared_ptr<Model> Model::create(std::shared_ptr<Device> device, const std::string& config_json,
                                     const ModelOptions& options, uint64_t seed) {
  return std::make_shared<Model>(create_model(std::move(device), config_json, options, seed));
}

ModelInfo Model::info() const {
  const ModelConfig& config = impl_->config;
  ModelInfo info;
  info.family = config.family;
  info.path = impl_->folder;
  info.vocabulary = config.vocabulary;
  info.hidden = config.hidden;
  info.intermediate = config.intermediate;
  info.layers = config.layers;
  info.heads = config.heads;
  info.kv_heads = config.kv_heads;
  info.head_dim = config.head_dim;
  info.max_positions = config.max_positions;
  info.tied_embeddings = config.tied_embeddings;
  for (const ParameterInfo& parameter : model_parameters(config))
    info.parameters += element_count(parameter.shape);
  info.weight_bytes = impl_->weight_bytes();
  info.eos_token_ids = config.eos_token_ids;
  info.bos_token_id = config.bos_token_id;
  info.pad_token_id = config.pad_token_id;
  info.compute = dtype_name(impl_->options.compute);
  info.quantization = quantization_name(impl_->options.quantization);
  info.device = impl_->device->backend().name;
  info.isa = impl_->device->info().isa;
  return info;
}

void Model::save(const std::string& folder, DType dtype) const {
  save_model(*impl_, folder, dtype);
}

std::shared_ptr<Adapter> Adapter::create(const Model& model, const LoraOptions& options,
                                         uint64_t seed) {
  return std::make_shared<Adapter>(create_adapter(model.impl(), options, seed));
}

std::shared_ptr<Adapter> Adapter::load(const Model& model, const std::string& folder) {
  return std::make_shared<Adapter>(load_adapter(model.impl(), folder));
}

AdapterInfo Adapter::info() const {
  AdapterInfo info;
  info.options = impl_->options;
  for (const LoraModule& module : impl_->modules) {
    info.modules.push_back(module.name);
    info.parameters += module.rank * (module.in + module.out);
  }
  for (const SavedModule& module : impl_->saved)
    info.parameters += element_count(module.parameter.shape);
  return info;
}

void Adapter::save(const std::string& folder, const std::string& base_model_name) const {
  save_adapter(*impl_, folder, base_model_name);
}

Session::Session(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter,
                 const SessionOptions& options)
    : impl_(std::make_unique<SessionImpl>(model->impl(), impl_of(model, adapter), options)) {}
Session::~Session() = default;

StepResult Session::step(const std::vector<MicroBatch>& batches, const StepOptions& options,
                         const std::atomic<bool>* abort) {
  return impl_->step(batches, options, abort);
}

StepResult Session::evaluate(const std::vector<MicroBatch>& batches, float* per_token,
                             const std::atomic<bool>* abort) {
  return impl_->evaluate(batches, per_token, abort);
}

StepResult Session::gradients(const std::vector<MicroBatch>& batches, int64_t step,
                              std::map<std::string, std::vector<float>>* out) {
  return impl_->gradients(batches, step, out);
}

PlanReport Session::plan() const { return impl_->plan(); }
void Session::save_state(const std::string& file) const { impl_->save_state(file); }
void Session::load_state(const std::string& file) { impl_->load_state(file); }

PlanReport estimate(std::shared_ptr<Device> device, const std::string& config_json,
                    const EstimateOptions& options) {
  const char* where = "config.json";
  ModelOptions model = options.model;
  // As load_model: a folder that is quantized stays as it is.
  const Quantization stored = stored_quantization(config_json, where);
  if (stored != Quantization::kNone) model.quantization = stored;
  if (!options.lora && model.quantization != Quantization::kNone)
    throw Error(ErrorCode::kInvalidArgument, "quantized weights can't be trained",
                stored == Quantization::kNone ? "quantization" : "config.json: quantization_config",
                "train an adapter over them, or use the original weights without quantization");
  const ModelConfig config =
      parse_model_config(without_quantization_config(config_json, where), where);
  std::vector<LoraModule> modules;
  std::vector<ParameterInfo> saved;
  if (options.lora) {
    modules = select_lora_modules(config, *options.lora);
    saved = select_saved_modules(config, *options.lora);
  }
  const std::vector<TrainedTensor> tensors =
      trained_tensors(config, modules, saved, !options.lora.has_value());
  PlanRequest request;
  request.device = device.get();
  request.config = &config;
  request.model = model;
  request.model.trainable = !options.lora;
  request.session = options.session;
  request.modules = &modules;
  request.tensors = &tensors;
  request.weight_bytes = predict_weight_bytes(config, request.model);
  request.adapter_bytes = adapter_bytes(tensors);
  return make_plan(request).report;
}

Generator::Generator(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter,
                     int32_t capacity)
    : impl_(std::make_unique<GeneratorImpl>(model->impl(), impl_of(model, adapter), capacity)) {}
Generator::~Generator() = default;

void Generator::prefill(const int32_t* ids, int64_t count, const std::atomic<bool>* abort) {
  impl_->prefill(ids, count, abort);
}
const std::vector<float>& Generator::logits() { return impl_->logits(); }
int32_t Generator::next(const SamplingOptions& options) { return impl_->next(options); }
int64_t Generator::length() const { return impl_->length(); }
uint64_t Generator::cache_bytes() const { return impl_->cache_bytes(); }

std::vector<float> forward_logits(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter,
                                  const int32_t* ids, int64_t count) {
  return forward_logits(model->impl(), impl_of(model, adapter), ids, count);
}

const char* engine_version() { return LOWRANK_VERSION; }

}  // namespace lowrank
