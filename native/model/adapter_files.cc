// PEFT adapter folders: adapter_config.json and adapter_model.safetensors.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "core/error.h"
#include "io/files.h"
#include "io/safetensors.h"
#include "model/adapter.h"
#include "model/lora_targets.h"
#include "model/peft_config.h"
#include "model/place_weights.h"

namespace lowrank {
namespace {

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
const std::string kPrefix = "base_model.model.";
const std::string kSuffixA = ".lora_A.weight", kSuffixB = ".lora_B.weight";

bool ends_with(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// Copies one tensor to the device as f32.
Buffer load_tensor(const std::shared_ptr<Device>& device, const TensorView& tensor,
                   const std::vector<int64_t>& shape, const std::string& file) {
  const std::string where = file + ": " + tensor.name;
  if (tensor.shape != shape)
    throw Error(
        ErrorCode::kInvalidFile,
        "the tensor has the shape " + shape_text(tensor.shape) + ", expected " + shape_text(shape),
        where, "the adapter was trained on another base model or with another rank");
  storage_of_tensor(tensor.dtype, where);
  std::vector<float> values(static_cast<size_t>(tensor.count()));
  to_floats(tensor.data, tensor.dtype, tensor.count(), values.data());
  Buffer buffer(device, values.size() * sizeof(float));
  buffer.upload(values.data(), values.size() * sizeof(float));
  return buffer;
}

[[noreturn]] void unexpected(const TensorView& tensor, const std::string& file) {
  const char* what = "the adapter has a tensor that this model has no place for";
  if (tensor.name.find("lora_magnitude_vector") != std::string::npos)
    what = "DoRA isn't supported";
  else if (tensor.name.find("lora_embedding_") != std::string::npos)
    what = "LoRA on embeddings isn't supported";
  else if (ends_with(tensor.name, ".lora_B.bias"))
    what = "LoRA with a bias isn't supported";
  throw Error(ErrorCode::kUnsupported, what, file + ": " + tensor.name,
              "check that the adapter belongs to this base model");
}

// Rank and scale by the file's own order of patterns.
void apply_patterns(const PeftConfig& config, std::vector<LoraModule>* modules) {
  std::vector<NamePattern> rank_keys, alpha_keys;
  for (const auto& [key, rank] : config.rank_pattern)
    rank_keys.push_back(pattern_key(key, "rank_pattern"));
  for (const auto& [key, alpha] : config.alpha_pattern)
    alpha_keys.push_back(pattern_key(key, "alpha_pattern"));
  for (LoraModule& module : *modules) {
    const int rank = find_pattern_key(rank_keys, module.name);
    const int alpha = find_pattern_key(alpha_keys, module.name);
    module.rank =
        rank < 0 ? config.options.r : config.rank_pattern[static_cast<size_t>(rank)].second;
    const double numerator = alpha < 0 ? config.options.lora_alpha
                                       : config.alpha_pattern[static_cast<size_t>(alpha)].second;
    module.scale = static_cast<float>(numerator / (config.options.use_rslora
                                                       ? std::sqrt(static_cast<double>(module.rank))
                                                       : static_cast<double>(module.rank)));
  }
}

// Options that select exactly these modules with these ranks and scales, so that saving again keeps
// the meaning whatever order or narrowing the file had.
void make_explicit(const PeftConfig& config, const std::vector<LoraModule>& selected,
                   const std::vector<LoraModule>& modules, LoraOptions* options) {
  const auto same = [](const LoraModule& a, const LoraModule& b) {
    return a.name == b.name && a.rank == b.rank && a.scale == b.scale;
  };
  if (selected.size() == modules.size() &&
      std::equal(selected.begin(), selected.end(), modules.begin(), same))
    return;
  options->target_pattern.clear();
  options->target_modules.clear();
  options->rank_pattern.clear();
  options->alpha_pattern.clear();
  for (const LoraModule& module : modules) {
    options->target_modules.push_back(module.name);
    if (module.rank != options->r) options->rank_pattern[module.name] = module.rank;
    for (const auto& [key, alpha] : config.alpha_pattern) {
      if (!pattern_key(key, "alpha_pattern").matches(module.name)) continue;
      options->alpha_pattern[module.name] = alpha;
      break;
    }
  }
}

std::vector<LoraModule> modules_in_file(const ModelConfig& model, const SafetensorsFile& file,
                                        const PeftConfig& config) {
  LoraOptions every;
  every.target_modules = {"all-linear"};
  std::vector<LoraModule> modules;
  for (LoraModule& module : select_lora_modules(model, every))
    if (file.find(kPrefix + module.name + kSuffixA) || file.find(kPrefix + module.name + kSuffixB))
      modules.push_back(std::move(module));
  apply_patterns(config, &modules);
  return modules;
}

void load_saved(AdapterImpl* adapter, const SafetensorsFile& file, std::set<std::string>* used) {
  const ModelConfig& config = adapter->model->config;
  std::vector<ParameterInfo> parameters = model_parameters(config);
  if (config.tied_embeddings) parameters.push_back(head_parameter(config));
  for (const ParameterInfo& info : parameters) {
    const TensorView* tensor = file.find(kPrefix + info.name);
    if (!tensor) continue;
    used->insert(tensor->name);
    adapter->saved.push_back(
        {info, load_tensor(adapter->model->device, *tensor, info.shape, file.path())});
  }
}

// Every parameter that modules_to_save names must be in the file.
void check_saved(const AdapterImpl& adapter, const std::string& file) {
  if (adapter.options.modules_to_save.empty()) return;
  for (const ParameterInfo& info : select_saved_modules(adapter.model->config, adapter.options))
    if (!adapter.find_saved(info.name))
      throw Error(ErrorCode::kInvalidFile, "the tensor " + kPrefix + info.name + " is missing",
                  file, "modules_to_save names it");
}

class HostCopy {
 public:
  explicit HostCopy(const Buffer& buffer) : bytes_(buffer.bytes()) {
    buffer.download(bytes_.data(), bytes_.size());
  }
  const void* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }

 private:
  std::vector<uint8_t> bytes_;
};

}  // namespace

std::shared_ptr<AdapterImpl> load_adapter(std::shared_ptr<ModelImpl> model,
                                          const std::string& folder) {
  const std::string config_path = join_path(folder, kConfigFile);
  const std::string weights_path = join_path(folder, kWeightsFile);
  if (!file_exists(config_path))
    throw Error(ErrorCode::kInvalidFile, "there is no adapter_config.json", folder,
                "point to a PEFT adapter folder");
  const PeftConfig config = parse_peft_config(read_text_file(config_path), config_path);
  if (!file_exists(weights_path))
    throw Error(ErrorCode::kInvalidFile, "there is no adapter_model.safetensors", folder,
                "adapter_model.bin is a pickle and isn't read: save it with PEFT as safetensors");
  const SafetensorsFile file(weights_path);

  auto adapter = std::make_shared<AdapterImpl>();
  adapter->model = model;
  adapter->options = config.options;
  adapter->modules = modules_in_file(model->config, file, config);
  std::set<std::string> used;
  for (LoraModule& module : adapter->modules) {
    const TensorView& a = file.at(kPrefix + module.name + kSuffixA);
    const TensorView& b = file.at(kPrefix + module.name + kSuffixB);
    module.a = load_tensor(model->device, a, {module.rank, module.in}, weights_path);
    module.b = load_tensor(model->device, b, {module.out, module.rank}, weights_path);
    used.insert({a.name, b.name});
  }
  load_saved(adapter.get(), file, &used);
  for (const TensorView& tensor : file.tensors())
    if (!used.count(tensor.name)) unexpected(tensor, weights_path);
  check_saved(*adapter, weights_path);

  std::vector<LoraModule> selected;
  if (!config.narrowed) {
    selected = match_lora_modules(model->config, config.options, false);
    for (const LoraModule& module : selected)
      file.at(kPrefix + module.name + kSuffixA);  // a module without tensors: a truncated adapter
  }
  make_explicit(config, selected, adapter->modules, &adapter->options);
  return adapter;
}

void save_adapter(const AdapterImpl& adapter, const std::string& folder,
                  const std::string& base_model_name) {
  OutputFolder output(folder);
  SafetensorsWriter writer(join_path(output.path(), kWeightsFile));
  for (const LoraModule& module : adapter.modules) {
    writer.declare(kPrefix + module.name + kSuffixA, DType::kF32, {module.rank, module.in});
    writer.declare(kPrefix + module.name + kSuffixB, DType::kF32, {module.out, module.rank});
  }
  for (const SavedModule& module : adapter.saved)
    writer.declare(kPrefix + module.parameter.name, DType::kF32, module.parameter.shape);
  const auto append = [&writer](const Buffer& buffer) {
    const HostCopy copy(buffer);
    writer.append(copy.data(), copy.size());
  };
  for (const LoraModule& module : adapter.modules) {
    append(module.a);
    append(module.b);
  }
  for (const SavedModule& module : adapter.saved) append(module.value);
  writer.finish();
  const std::string base = base_model_name.empty() ? adapter.model->folder : base_model_name;
  write_text_file(join_path(output.path(), kConfigFile), write_peft_config(adapter, base));
  output.commit();
}

}  // namespace lowrank
