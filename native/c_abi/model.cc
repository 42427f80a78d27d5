// Devices, models and adapters behind lowrank.h.
#include "c_abi/bridge.h"

using namespace lowrank;
using namespace lowrank::c_abi;

namespace {

constexpr const char* kAllLinear[] = {"all-linear"};

const lowrank_device_options kDeviceDefaults = {sizeof(lowrank_device_options), "auto", nullptr, 0,
                                                0};
const lowrank_model_options kModelDefaults = {
    sizeof(lowrank_model_options), LOWRANK_F32, LOWRANK_QUANTIZATION_NONE, 0, 0, 0};

lowrank_lora_options lora_defaults() {
  lowrank_lora_options options = {};
  options.struct_bytes = sizeof options;
  options.r = 8;
  options.lora_alpha = 8;
  options.target_modules = kAllLinear;
  options.target_module_count = 1;
  return options;
}

DType dtype_of(int32_t dtype, bool allow_f16, const char* name) {
  switch (dtype) {
    case LOWRANK_F32:
      return DType::kF32;
    case LOWRANK_BF16:
      return DType::kBF16;
    case LOWRANK_F16:
      if (allow_f16) return DType::kF16;
      break;
    default:
      break;
  }
  throw Error(ErrorCode::kInvalidArgument, "this type isn't one of those allowed", name);
}

std::vector<std::string> strings(const char* const* list, size_t count, const char* name) {
  std::vector<std::string> out;
  for (size_t i = 0; i < count; ++i) out.emplace_back(require(require(list, name)[i], name));
  return out;
}

template <typename T>
std::map<std::string, T> pattern(const char* const* names, const T* values, size_t count,
                                 const char* name) {
  std::map<std::string, T> out;
  const std::vector<std::string> keys = strings(names, count, name);
  for (size_t i = 0; i < count; ++i) out[keys[i]] = require(values, name)[i];
  return out;
}

Progress progress_of(lowrank_progress progress, void* user) {
  if (!progress) return {};
  return [=](int64_t done, int64_t total) { progress(done, total, user); };
}

}  // namespace

namespace lowrank::c_abi {

ModelOptions model_options(const lowrank_model_options* given) {
  const lowrank_model_options from = read_struct(given, kModelDefaults, "model options");
  ModelOptions options;
  options.compute = dtype_of(from.compute, false, "compute");
  if (from.quantization < LOWRANK_QUANTIZATION_NONE ||
      from.quantization > LOWRANK_QUANTIZATION_NF4_DOUBLE)
    throw Error(ErrorCode::kInvalidArgument, "there is no such quantization", "quantization");
  options.quantization = static_cast<Quantization>(from.quantization);
  options.trainable = from.trainable != 0;
  options.max_length = from.max_length;
  options.copy_weights = from.copy_weights != 0;
  return options;
}

LoraOptions lora_options(const lowrank_lora_options* given) {
  const lowrank_lora_options from = read_struct(given, lora_defaults(), "lora options");
  LoraOptions options;
  options.r = from.r;
  options.lora_alpha = from.lora_alpha;
  options.lora_dropout = from.lora_dropout;
  options.use_rslora = from.use_rslora != 0;
  if (from.target_pattern) options.target_pattern = from.target_pattern;
  // A pattern stands in place of the names; the default list then doesn't count.
  if (options.target_pattern.empty() || from.target_modules != kAllLinear)
    options.target_modules =
        strings(from.target_modules, from.target_module_count, "target_modules");
  options.modules_to_save =
      strings(from.modules_to_save, from.modules_to_save_count, "modules_to_save");
  options.rank_pattern = pattern(from.rank_pattern_names, from.rank_pattern_values,
                                 from.rank_pattern_count, "rank_pattern");
  options.alpha_pattern = pattern(from.alpha_pattern_names, from.alpha_pattern_values,
                                  from.alpha_pattern_count, "alpha_pattern");
  return options;
}

}  // namespace lowrank::c_abi

void lowrank_device_options_init(lowrank_device_options* options) {
  if (options) *options = kDeviceDefaults;
}
void lowrank_model_options_init(lowrank_model_options* options) {
  if (options) *options = kModelDefaults;
}
void lowrank_lora_options_init(lowrank_lora_options* options) {
  if (options) *options = lora_defaults();
}

lowrank_status lowrank_device_open(const lowrank_device_options* options, lowrank_device** out) {
  return guarded([&] {
    require(out, "out");
    const lowrank_device_options from = read_struct(options, kDeviceDefaults, "device options");
    DeviceOptions device;
    device.threads = from.threads;
    device.isa = from.isa;
    device.ordinal = from.ordinal;
    *out = new lowrank_device{Device::open(from.name ? from.name : "auto", device)};
  });
}
void lowrank_device_free(lowrank_device* device) { delete device; }

lowrank_status lowrank_model_load(lowrank_device* device, const char* folder,
                                  const lowrank_model_options* options, lowrank_progress progress,
                                  void* user, const lowrank_abort* abort, lowrank_model** out) {
  return guarded([&] {
    require(out, "out");
    const std::shared_ptr<Device>& on = require(device, "device")->device;
    *out = new lowrank_model{on, Model::load(on, require(folder, "folder"), model_options(options),
                                             progress_of(progress, user), flag_of(abort))};
  });
}

lowrank_status lowrank_model_create(lowrank_device* device, const char* config_json,
                                    const lowrank_model_options* options, uint64_t seed,
                                    lowrank_model** out) {
  return guarded([&] {
    require(out, "out");
    const std::shared_ptr<Device>& on = require(device, "device")->device;
    *out = new lowrank_model{
        on, Model::create(on, require(config_json, "config_json"), model_options(options), seed)};
  });
}

lowrank_status lowrank_model_get_info(const lowrank_model* model, lowrank_model_info* info) {
  return guarded([&] {
    const ModelInfo from = require(model, "model")->model->info();
    lowrank_model_info to = {};
    to.vocabulary = from.vocabulary;
    to.hidden = from.hidden;
    to.intermediate = from.intermediate;
    to.layers = from.layers;
    to.heads = from.heads;
    to.kv_heads = from.kv_heads;
    to.head_dim = from.head_dim;
    to.max_positions = from.max_positions;
    to.parameters = from.parameters;
    to.weight_bytes = from.weight_bytes;
    to.tied_embeddings = from.tied_embeddings;
    to.bos_token_id = from.bos_token_id;
    to.eos_token_id = from.eos_token_ids.empty() ? -1 : from.eos_token_ids.front();
    to.pad_token_id = from.pad_token_id;
    write_struct(info, to, "info");
  });
}

lowrank_status lowrank_model_save(const lowrank_model* model, const char* folder, int32_t dtype) {
  return guarded([&] {
    require(model, "model")->model->save(require(folder, "folder"), dtype_of(dtype, true, "dtype"));
  });
}
void lowrank_model_free(lowrank_model* model) { delete model; }

lowrank_status lowrank_adapter_create(const lowrank_model* model,
                                      const lowrank_lora_options* options, uint64_t seed,
                                      lowrank_adapter** out) {
  return guarded([&] {
    require(out, "out");
    *out = new lowrank_adapter{
        Adapter::create(*require(model, "model")->model, lora_options(options), seed)};
  });
}

lowrank_status lowrank_adapter_load(const lowrank_model* model, const char* folder,
                                    lowrank_adapter** out) {
  return guarded([&] {
    require(out, "out");
    *out = new lowrank_adapter{
        Adapter::load(*require(model, "model")->model, require(folder, "folder"))};
  });
}

lowrank_status lowrank_adapter_save(const lowrank_adapter* adapter, const char* folder,
                                    const char* base_model_name) {
  return guarded([&] {
    require(adapter, "adapter")
        ->adapter->save(require(folder, "folder"), base_model_name ? base_model_name : "");
  });
}
void lowrank_adapter_free(lowrank_adapter* adapter) { delete adapter; }

lowrank_status lowrank_merge(lowrank_device* device, const char* model_folder,
                             const char* adapter_folder, const char* output_folder,
                             lowrank_progress progress, void* user, double* max_logit_difference) {
  return guarded([&] {
    const MergeReport report =
        merge_adapter(require(device, "device")->device, require(model_folder, "model_folder"),
                      require(adapter_folder, "adapter_folder"),
                      require(output_folder, "output_folder"), progress_of(progress, user));
    if (max_logit_difference) *max_logit_difference = report.max_logit_difference;
  });
}
