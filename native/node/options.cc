#include "node/options.h"

#include <limits>

#include "backend/profile.h"

namespace lowrank::node {

namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxInt64 = static_cast<int64_t>(kMaxSafeInteger);

template <typename T, typename Read>
std::map<std::string, T> read_record(OptionsReader record, const Read& read) {
  std::map<std::string, T> result;
  for (const std::string& key : record.keys()) result[key] = read(record, key.c_str());
  return result;
}

}  // namespace

std::shared_ptr<Device> DeviceRequest::open() const {
  DeviceOptions options;
  options.threads = threads;
  options.isa = isa.empty() ? nullptr : isa.c_str();
  return profile ? open_profiled(name, options) : Device::open(name, options);
}

DeviceRequest read_device(const Napi::Value& value) {
  OptionsReader options(value, "device");
  DeviceRequest request;
  request.name = options.text("device");
  if (options.has("threads")) {
    request.threads = static_cast<int32_t>(options.integer("threads", 0, 4096));
  }
  if (options.has("isa")) request.isa = options.text("isa");
  if (options.has("profile")) request.profile = options.boolean("profile");
  options.finish();
  return request;
}

ModelOptions read_model_options(OptionsReader options) {
  ModelOptions result;
  result.compute = options.choice<DType>("compute", {{"f32", DType::kF32}, {"bf16", DType::kBF16}});
  result.quantization =
      options.choice<Quantization>("quantization", {{"none", Quantization::kNone},
                                                    {"nf4", Quantization::kNf4},
                                                    {"nf4-double", Quantization::kNf4Double},
                                                    {"int8", Quantization::kInt8}});
  result.trainable = options.boolean("trainable");
  if (options.has("maxLength")) {
    result.max_length = static_cast<int32_t>(options.integer("maxLength", 0, kMaxInt32));
  }
  if (options.has("copyWeights")) result.copy_weights = options.boolean("copyWeights");
  options.finish();
  return result;
}

LoraOptions read_lora_options(OptionsReader options) {
  LoraOptions result;
  result.r = static_cast<int32_t>(options.integer("r", 1, kMaxInt32));
  result.lora_alpha = options.number("loraAlpha");
  result.lora_dropout = options.number("loraDropout");
  result.use_rslora = options.boolean("useRslora");
  result.target_modules = options.texts("targetModules");
  result.target_pattern = options.text("targetPattern");
  result.rank_pattern = read_record<int32_t>(
      options.object("rankPattern"), [](OptionsReader& record, const char* key) {
        return static_cast<int32_t>(record.integer(key, 1, kMaxInt32));
      });
  result.alpha_pattern = read_record<double>(
      options.object("alphaPattern"),
      [](OptionsReader& record, const char* key) { return record.number(key); });
  result.modules_to_save = options.texts("modulesToSave");
  options.finish();
  return result;
}

SessionOptions read_session_options(OptionsReader options) {
  SessionOptions result;
  result.optimizer = options.choice<Optimizer>(
      "optimizer", {{"adamw", Optimizer::kAdamW}, {"adamw_8bit", Optimizer::kAdamW8Bit}});
  result.beta1 = options.number("beta1");
  result.beta2 = options.number("beta2");
  result.eps = options.number("eps");
  result.weight_decay = static_cast<float>(options.number("weightDecay"));
  result.max_grad_norm = static_cast<float>(options.number("maxGradNorm"));
  result.seed = static_cast<uint64_t>(options.integer("seed", 0, kMaxInt64));
  result.max_tokens = options.integer("maxTokens", 1, kMaxInt32);
  if (options.has("maxLabels")) result.max_labels = options.integer("maxLabels", 0, kMaxInt32);
  result.checkpointing =
      options.choice<Checkpointing>("checkpointing", {{"none", Checkpointing::kNone},
                                                      {"block", Checkpointing::kBlock},
                                                      {"auto", Checkpointing::kAuto}});
  if (options.has("memoryBudget")) {
    result.memory_budget = static_cast<uint64_t>(options.integer("memoryBudget", 0, kMaxInt64));
  }
  options.finish();
  return result;
}

SamplingOptions read_sampling_options(OptionsReader options) {
  SamplingOptions result;
  result.temperature = static_cast<float>(options.number("temperature"));
  result.top_k = static_cast<int32_t>(options.integer("topK", 0, kMaxInt32));
  result.top_p = static_cast<float>(options.number("topP"));
  result.seed = static_cast<uint64_t>(options.integer("seed", 0, kMaxInt64));
  options.finish();
  return result;
}

StepOptions read_step_options(OptionsReader options) {
  StepOptions result;
  result.learning_rate = static_cast<float>(options.number("learningRate"));
  result.step = options.integer("step", 1, kMaxInt64);
  options.finish();
  return result;
}

EstimateOptions read_estimate_options(OptionsReader options) {
  EstimateOptions result;
  result.model = read_model_options(options.object("model"));
  if (options.has("lora")) result.lora = read_lora_options(options.object("lora"));
  result.session = read_session_options(options.object("session"));
  options.finish();
  return result;
}

uint64_t read_seed(const Napi::Value& value) {
  return static_cast<uint64_t>(read_integer(value, 0, kMaxInt64, "seed"));
}

DType read_dtype(const Napi::Value& value, const std::string& where) {
  const std::string name = read_text(value, where);
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw_invalid("is \"" + name + "\"", where, "one of: f32, bf16, f16");
}

OwnedBatches::OwnedBatches(const Napi::Value& value) {
  if (!value.IsArray()) throw_invalid("must be an array of micro-batches", "batches");
  const auto list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const std::string where = "batches[" + std::to_string(i) + "]";
    OptionsReader batch(list.Get(i), where);
    auto arrays = std::make_unique<Arrays>();
    arrays->input_ids = copy_int32(batch.value("inputIds"), where + ".inputIds");
    arrays->labels = copy_int32(batch.value("labels"), where + ".labels");
    arrays->document_offsets =
        copy_int32(batch.value("documentOffsets"), where + ".documentOffsets");
    const bool weighted = batch.has("weights");
    if (weighted) arrays->weights = copy_float32(batch.value("weights"), where + ".weights");
    batch.finish();

    const size_t tokens = arrays->input_ids.size();
    if (arrays->labels.size() != tokens || (weighted && arrays->weights.size() != tokens)) {
      throw_invalid("inputIds, labels and weights must have the same length", where);
    }
    const auto& offsets = arrays->document_offsets;
    if (tokens > static_cast<size_t>(kMaxInt32) || offsets.size() < 2 || offsets.front() != 0 ||
        offsets.back() != static_cast<int64_t>(tokens)) {
      throw_invalid("must begin with 0 and end with the number of tokens",
                    where + ".documentOffsets");
    }
    views_.push_back({.input_ids = arrays->input_ids.data(),
                      .labels = arrays->labels.data(),
                      .weights = weighted ? arrays->weights.data() : nullptr,
                      .tokens = static_cast<int64_t>(tokens),
                      .document_offsets = offsets.data(),
                      .documents = static_cast<int32_t>(offsets.size() - 1)});
    tokens_ += static_cast<int64_t>(tokens);
    arrays_.push_back(std::move(arrays));
  }
}

}  // namespace lowrank::node
