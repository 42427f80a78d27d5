// Loading and making models: tensor by tensor, so that memory never holds more of the source than
// one tensor beside what the model keeps.
#include <algorithm>
#include <cstring>
#include <set>

#include "core/error.h"
#include "core/random.h"
#include "core/thread_pool.h"
#include "io/files.h"
#include "io/sharded.h"
#include "model/place_weights.h"
#include "model/prequantized.h"
#include "model/weights.h"

namespace lowrank {
namespace {

void check_options(const ModelOptions& options) {
  if (options.compute != DType::kF32 && options.compute != DType::kBF16)
    throw Error(ErrorCode::kInvalidArgument,
                std::string("compute type ") + dtype_name(options.compute), "compute",
                "f32 or bf16");
  if (options.quantization == Quantization::kInt8)
    throw Error(ErrorCode::kUnsupported, "int8 quantization on load", "quantization",
                "use nf4 or nf4-double");
  if (options.trainable && options.quantization != Quantization::kNone)
    throw Error(ErrorCode::kInvalidArgument, "quantized weights can't be trained", "quantization",
                "train an adapter over them, or load without quantization");
}

Placement placement_of(const ModelOptions& options, const ParameterInfo& info,
                       Placement otherwise) {
  const bool block_linear = info.place.kind == ParameterPlace::Kind::kLinear;
  if (options.trainable) return Placement::kMaster;
  if (block_linear && options.quantization == Quantization::kNf4) return Placement::kNf4;
  if (block_linear && options.quantization == Quantization::kNf4Double)
    return Placement::kNf4Double;
  return otherwise;
}

std::shared_ptr<ModelImpl> empty_model(std::shared_ptr<Device> device, ModelConfig config,
                                       const ModelOptions& options) {
  auto model = std::make_shared<ModelImpl>();
  model->device = std::move(device);
  model->config = std::move(config);
  model->options = options;
  model->make_layers();
  if (options.quantization == Quantization::kNf4Double)
    model->nested_code = make_nested_code(model->device);
  return model;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

const ShardedTensors::Entry& find_tensor(const ShardedTensors& tensors, const ModelConfig& config,
                                         const std::string& name) {
  if (const ShardedTensors::Entry* entry = tensors.find(name)) return *entry;
  // Of two tied tensors a writer may keep either.
  if (config.tied_embeddings && name == config.names.embedding)
    if (const ShardedTensors::Entry* entry = tensors.find(config.names.head)) return *entry;
  throw Error(ErrorCode::kInvalidFile, "the tensor " + name + " is missing", tensors.folder(),
              "the weights don't belong to this config.json, or the download is incomplete");
}

void check_shape(const ShardedTensors::Entry& entry, const std::vector<int64_t>& expected) {
  if (entry.tensor->shape == expected) return;
  throw Error(ErrorCode::kInvalidFile,
              "the tensor has the shape " + shape_text(entry.tensor->shape) +
                  ", config.json asks for " + shape_text(expected),
              entry.file->path() + ": " + entry.tensor->name,
              "the weights don't belong to this config.json");
}

// What a writer may leave in a file without changing the maths.
bool is_ignorable(const ModelConfig& config, const std::string& name) {
  const std::string buffer = ".rotary_emb.inv_freq";
  if (name.size() > buffer.size() &&
      name.compare(name.size() - buffer.size(), buffer.size(), buffer) == 0)
    return true;
  return config.tied_embeddings && name == config.names.head;
}

void check_unexpected(const ShardedTensors& tensors, const ModelConfig& config,
                      const std::set<std::string>& used) {
  std::string names;
  int64_t count = 0;
  for (const ShardedTensors::Entry& entry : tensors.entries()) {
    const std::string& name = entry.tensor->name;
    if (used.count(name) || is_ignorable(config, name)) continue;
    if (++count <= 3) names += (count > 1 ? ", " : "") + name;
  }
  if (count == 0) return;
  throw Error(ErrorCode::kUnsupported,
              "the folder has " + std::to_string(count) +
                  " tensors that the model of config.json "
                  "doesn't use: " +
                  names + (count > 3 ? ", ..." : ""),
              tensors.folder(), "the weights don't belong to this config.json");
}

// Of two tied tensors that differ transformers 4 takes the embedding for both and transformers 5
// each for itself, so there is no telling which model is meant.
void check_tied(const ShardedTensors& tensors, const ModelConfig& config) {
  const ShardedTensors::Entry* embedding = tensors.find(config.names.embedding);
  const ShardedTensors::Entry* head = tensors.find(config.names.head);
  if (!config.tied_embeddings || !embedding || !head) return;
  const TensorView &a = *embedding->tensor, &b = *head->tensor;
  if (a.dtype == b.dtype && a.bytes == b.bytes && std::memcmp(a.data, b.data, a.bytes) == 0) return;
  throw Error(ErrorCode::kUnsupported,
              "config.json ties it to the embedding (tie_word_embeddings), but the two differ",
              head->file->path() + ": " + head->tensor->name,
              "set tie_word_embeddings to false if the file is right, or remove the tensor");
}

class Loader {
 public:
  Loader(std::shared_ptr<ModelImpl> model, const ShardedTensors& tensors, bool copies)
      : model_(std::move(model)), tensors_(tensors), copies_(copies) {
    check_tied(tensors_, model_->config);
  }

  // Returns how many bytes of the file the parameter took.
  uint64_t load(const ParameterInfo& info, const ModelImpl::Named& named) {
    const std::vector<int64_t>& shape = info.shape;
    const ShardedTensors::Entry& entry = find_tensor(tensors_, model_->config, named.name);
    const TensorView& tensor = *entry.tensor;
    used_.insert(tensor.name);
    const std::string where = entry.file->path() + ": " + tensor.name;
    if (named.matrix) named.matrix->name = named.name;
    if (named.vector) named.vector->name = named.name;
    if (named.matrix && is_prequantized(tensors_, tensor.name)) {
      load_prequantized(named, shape, where);
      return tensor.bytes;
    }
    check_shape(entry, shape);
    storage_of_tensor(tensor.dtype, where);
    const HostTensor source{tensor.data, tensor.dtype, tensor.count()};
    if (named.vector) {
      place_vector(model_->device, source, named.vector);
      return tensor.bytes;
    }
    const Placement placement = placement_of(model_->options, info, unquantized(info));
    place_matrix(model_->device, source, shape[0], shape[1], placement, model_->nested_code,
                 named.matrix);
    if (named.matrix->view.data != tensor.data) entry.file->drop(tensor);
    return tensor.bytes;
  }

  void finish() {
    check_unexpected(tensors_, model_->config, used_);
    for (const auto& file : tensors_.files()) model_->mappings.push_back(file->mapping());
  }

 private:
  // An embedding that isn't the head too is only looked up, a few rows at a time.
  Placement unquantized(const ParameterInfo& info) const {
    const bool looked_up =
        info.place.kind == ParameterPlace::Kind::kEmbedding && !model_->config.tied_embeddings;
    return copies_ && !looked_up ? Placement::kUpload : Placement::kMap;
  }

  void load_prequantized(const ModelImpl::Named& named, const std::vector<int64_t>& shape,
                         const std::string& where) {
    if (model_->options.trainable)
      throw Error(ErrorCode::kUnsupported, "quantized weights can't be trained", where,
                  "train an adapter over them, or load the original weights");
    const bool nested =
        place_prequantized(model_->device, tensors_, shape[0], shape[1], named.matrix);
    model_->options.quantization = nested ? Quantization::kNf4Double : Quantization::kNf4;
    for (std::string& companion : prequantized_companions(tensors_, named.name))
      used_.insert(std::move(companion));
  }

  std::shared_ptr<ModelImpl> model_;
  const ShardedTensors& tensors_;
  const bool copies_;
  std::set<std::string> used_;
};

int64_t element_count(const ParameterInfo& info) {
  int64_t count = 1;
  for (const int64_t extent : info.shape) count *= extent;
  return count;
}

void create_vector(const ModelImpl& model, const ParameterInfo& info, WeightVector* vector) {
  vector->name = info.name;
  const std::vector<float> values(static_cast<size_t>(element_count(info)),
                                  info.name.ends_with(".bias") ? 0.0f : 1.0f);
  place_vector(model.device, {values.data(), DType::kF32, element_count(info)}, vector);
}

// Normal values from `key`. What isn't quantized goes to the device piece by piece: an embedding in
// f32 beside the one of the model would be the largest thing that a process ever holds.
void create_matrix(const ModelImpl& model, const ParameterInfo& info, Placement placement,
                   uint64_t key, ThreadPool& pool, WeightMatrix* matrix) {
  constexpr int64_t kPiece = 1 << 18, kTask = 1 << 12;
  const int64_t count = element_count(info);
  const bool whole = placement == Placement::kNf4 || placement == Placement::kNf4Double;
  std::vector<float> values(static_cast<size_t>(whole ? count : std::min(count, kPiece)));
  const auto fill = [&](int64_t begin, int64_t size) {
    pool.parallel_for((size + kTask - 1) / kTask, [&](int64_t task, int) {
      for (int64_t k = task * kTask; k < std::min(size, (task + 1) * kTask); ++k)
        values[static_cast<size_t>(k)] =
            model.config.initializer_range * random_normal(key, static_cast<uint64_t>(begin + k));
    });
  };
  matrix->name = info.name;
  if (whole) {
    fill(0, count);
    place_matrix(model.device, {values.data(), DType::kF32, count}, info.shape[0], info.shape[1],
                 placement, model.nested_code, matrix);
    return;
  }
  const DType dtype = placement == Placement::kMaster ? DType::kF32 : model.config.dtype;
  const size_t bytes = dtype_size(dtype);
  std::vector<uint8_t> stored(values.size() * bytes);
  matrix->view.storage = storage_of_tensor(dtype, info.name);
  matrix->view.rows = info.shape[0];
  matrix->view.cols = info.shape[1];
  matrix->data = Buffer(model.device, static_cast<size_t>(count) * bytes);
  matrix->view.data = matrix->data.data();
  for (int64_t begin = 0; begin < count; begin += kPiece) {
    const int64_t size = std::min(kPiece, count - begin);
    fill(begin, size);
    from_floats(values.data(), size, dtype, stored.data());
    matrix->data.upload(stored.data(), static_cast<size_t>(size) * bytes,
                        static_cast<size_t>(begin) * bytes);
  }
}

}  // namespace

std::shared_ptr<ModelImpl> load_model(std::shared_ptr<Device> device, const std::string& folder,
                                      const ModelOptions& options, const Progress& progress,
                                      const std::atomic<bool>* abort) {
  check_options(options);
  const std::string config_path = join_path(folder, "config.json");
  if (!file_exists(config_path))
    throw Error(ErrorCode::kInvalidFile, "there is no config.json", folder,
                "point to a Hugging Face model folder");
  const std::string text = without_quantization_config(read_text_file(config_path), config_path);
  auto model = empty_model(std::move(device), parse_model_config(text, config_path), options);
  model->folder = folder;

  const ShardedTensors tensors(folder);
  const std::vector<ParameterInfo> infos = model_parameters(model->config);
  const std::vector<ModelImpl::Named> parameters = model->parameters();
  int64_t total = 0, done = 0;
  for (const ParameterInfo& info : infos)
    total += static_cast<int64_t>(find_tensor(tensors, model->config, info.name).tensor->bytes);
  const bool copies =
      options.copy_weights && static_cast<uint64_t>(total) <= model->device->info().free_bytes / 2;
  Loader loader(model, tensors, copies);
  for (size_t i = 0; i < infos.size(); ++i) {
    if (abort && abort->load(std::memory_order_relaxed))
      throw Error(ErrorCode::kAborted, "loading was aborted", folder);
    done += static_cast<int64_t>(loader.load(infos[i], parameters[i]));
    if (progress) progress(done, total);
  }
  loader.finish();
  return model;
}

std::shared_ptr<ModelImpl> create_model(std::shared_ptr<Device> device,
                                        const std::string& config_json, const ModelOptions& options,
                                        uint64_t seed) {
  return create_model(std::move(device), parse_model_config(config_json, "config.json"), options,
                      seed);
}

std::shared_ptr<ModelImpl> create_model(std::shared_ptr<Device> device, ModelConfig config,
                                        const ModelOptions& options, uint64_t seed) {
  check_options(options);
  auto model = empty_model(std::move(device), std::move(config), options);
  const std::vector<ParameterInfo> infos = model_parameters(model->config);
  const std::vector<ModelImpl::Named> parameters = model->parameters();
  ThreadPool pool(model->device->info().threads);
  for (size_t i = 0; i < infos.size(); ++i) {
    if (parameters[i].vector) {
      create_vector(*model, infos[i], parameters[i].vector);
    } else {
      const uint64_t key = random_key(seed, RandomUse::kInit, 0, i);
      create_matrix(*model, infos[i], placement_of(options, infos[i], Placement::kUpload), key,
                    pool, parameters[i].matrix);
    }
  }
  return model;
}

}  // namespace lowrank
