// Writing a model as a Hugging Face folder.
#include <algorithm>
#include <vector>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"
#include "io/sharded.h"
#include "model/place_weights.h"
#include "model/weights.h"

namespace lowrank {
namespace {

constexpr int64_t kPieceElements = int64_t{1} << 20;

DType dtype_of(Storage storage) {
  switch (storage) {
    case Storage::kBF16:
      return DType::kBF16;
    case Storage::kF16:
      return DType::kF16;
    default:
      return DType::kF32;
  }
}

const char* torch_name(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    default:
      return "float32";
  }
}

// Streams values that stand on the device to the file, piece by piece.
class TensorStream {
 public:
  TensorStream(const Device& device, DType to, ShardedWriter* writer)
      : device_(device), to_(to), writer_(writer) {}

  void append(const void* values, DType dtype, int64_t count) {
    for (int64_t begin = 0; begin < count; begin += kPieceElements) {
      const int64_t n = std::min(kPieceElements, count - begin);
      const auto* from =
          static_cast<const uint8_t*>(values) + static_cast<size_t>(begin) * dtype_size(dtype);
      if (!device_.backend().host_memory) {
        host_.resize(static_cast<size_t>(n) * dtype_size(dtype));
        device_.check(
            device_.backend().download(device_.handle(), host_.data(), from, host_.size()),
            "download");
        from = host_.data();
      }
      if (dtype == to_) {
        writer_->append(from, static_cast<uint64_t>(n) * dtype_size(dtype));
        continue;
      }
      floats_.resize(static_cast<size_t>(n));
      converted_.resize(static_cast<size_t>(n) * dtype_size(to_));
      to_floats(from, dtype, n, floats_.data());
      from_floats(floats_.data(), n, to_, converted_.data());
      writer_->append(converted_.data(), converted_.size());
    }
  }

 private:
  const Device& device_;
  DType to_;
  ShardedWriter* writer_;
  std::vector<uint8_t> host_, converted_;
  std::vector<float> floats_;
};

std::string config_with_dtype(const ModelConfig& config, DType dtype) {
  Json json = Json::parse(config.json, "config.json");
  const bool old_name = json.find("torch_dtype") && !json.find("dtype");
  json.set(old_name ? "torch_dtype" : "dtype", Json(torch_name(dtype)));
  return json.dump(2) + "\n";
}

}  // namespace

void save_model(const ModelImpl& model, const std::string& folder, DType dtype) {
  storage_of_tensor(dtype, "dtype");
  if (model.options.quantization != Quantization::kNone)
    throw Error(ErrorCode::kUnsupported, "a quantized model can't be saved", folder,
                "save the adapter, or merge it into the original weights");
  const std::vector<ParameterInfo> infos = model_parameters(model.config);
  // parameters() only hands out pointers; nothing is changed through them.
  const std::vector<ModelImpl::Named> parameters = const_cast<ModelImpl&>(model).parameters();
  std::vector<TensorSpec> specs;
  for (const ParameterInfo& info : infos) specs.push_back({info.name, dtype, info.shape});

  OutputFolder output(folder);
  ShardedWriter writer(output.path(), std::move(specs));
  TensorStream stream(*model.device, dtype, &writer);
  for (const ModelImpl::Named& named : parameters) {
    if (named.vector) {
      stream.append(named.vector->get(), DType::kF32, named.vector->count);
    } else {
      const Weight& view = named.matrix->view;
      stream.append(view.data, dtype_of(view.storage), view.rows * view.cols);
    }
  }
  writer.finish();
  write_text_file(join_path(output.path(), "config.json"), config_with_dtype(model.config, dtype));
  output.commit(weight_files(folder));
}

}  // namespace lowrank
