// The models of test/golden/models (see test/golden/generate.py) and what torch computed from them.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"
#include "io/safetensors.h"
#include "model/weights.h"
#include "support/modelled_device.h"
#include "support/tolerance.h"

#ifdef LOWRANK_EMULATED_AMX
#include "cpu/cpu_device.h"
namespace lowrank::cpu::amx_emulated {
void register_attention(KernelTable& table);
void register_gemm(KernelTable& table);
}  // namespace lowrank::cpu::amx_emulated
#endif

namespace lowrank::test {

// Every family, and each with weights stored in every type.
inline std::vector<std::string> golden_models() {
  return {"llama",      "llama_tied_v4", "llama_biases", "llama_linear_v4", "llama_dynamic",
          "llama_yarn", "llama_llama3",  "mistral",      "qwen2",           "qwen3",
          "smollm3",    "llama_f16",     "mistral_f32",  "mistral_f16",     "qwen2_f32",
          "qwen2_f16",  "qwen3_bf16",    "qwen3_f16",    "smollm3_f32",     "smollm3_f16"};
}

inline std::string golden_folder(const std::string& name) {
  return std::string(LOWRANK_GOLDEN_FOLDER) + "/models/" + name;
}

// A model that differs from another in the type of its weights alone shares the other's adapter.
inline std::string golden_adapter(const std::string& name) {
  std::string owner = name;
  for (const std::string suffix : {"_f32", "_f16", "_bf16"})
    if (name.size() > suffix.size() &&
        name.compare(name.size() - suffix.size(), suffix.size(), suffix) == 0)
      owner.resize(name.size() - suffix.size());
  return golden_folder(owner) + "/adapter";
}

// A CPU on which nearly all activations have something between their rows, as those of wide models
// have on every CPU (row_stride() in backend/device.h).
inline std::shared_ptr<Device> crowded_cpu(const DeviceOptions& options) {
  const Device::Opened cpu = Device::open_handle("cpu", options);
  static const Backend table = [&] {
    Backend copy = *cpu.backend;
    copy.crowded_row_bytes = 16;
    return copy;
  }();
  return Device::adopt(table, cpu.handle);
}

// `isa` null: the best that the machine has, else crowded_cpu() with it; in programs built with
// LOWRANK_EMULATED_AMX the AMX kernels over emulated tiles, where the machine has AVX-512 to
// emulate them with; with LOWRANK_MODELLED_FOLDER the CUDA kernels under their execution model.
inline std::shared_ptr<Device> golden_device(const char* isa, int threads = 2) {
#ifdef LOWRANK_MODELLED_FOLDER
  if (!isa) return modelled_device();
#endif
  DeviceOptions options;
  options.threads = threads;
  options.isa = isa;
  if (isa) return crowded_cpu(options);
  std::shared_ptr<Device> device = Device::open("cpu", options);
#ifdef LOWRANK_EMULATED_AMX
  if (!isa && cpu::isa_available(cpu::Isa::kAvx512)) {
    cpu::KernelTable& kernels = static_cast<cpu::CpuDevice*>(device->handle())->kernels;
    cpu::amx_emulated::register_gemm(kernels);
    cpu::amx_emulated::register_attention(kernels);
  }
#endif
  return device;
}

// What golden_device() is asked for, one after the other.
inline std::vector<const char*> golden_isas() {
#ifdef LOWRANK_MODELLED_FOLDER
  return {nullptr};
#else
  return {"reference", nullptr};
#endif
}

inline std::vector<float> floats(const TensorView& tensor) {
  const auto* data = reinterpret_cast<const float*>(tensor.data);
  return {data, data + tensor.count()};
}

// One packed row. Every token carries the label it has in the file.
class GoldenBatch {
 public:
  GoldenBatch(const SafetensorsFile& file, int64_t row = 0) {
    const TensorView& ids = file.at("ids");
    const int64_t tokens = ids.shape.back();
    const auto take = [&](const char* name) {
      const auto* data = reinterpret_cast<const int32_t*>(file.at(name).data) + row * tokens;
      return std::vector<int32_t>(data, data + tokens);
    };
    ids_ = take("ids");
    labels_ = take("labels");
  }
  void set_offsets(std::vector<int32_t> offsets) { offsets_ = std::move(offsets); }

  MicroBatch batch() const {
    MicroBatch batch;
    batch.input_ids = ids_.data();
    batch.labels = labels_.data();
    batch.tokens = static_cast<int64_t>(ids_.size());
    batch.document_offsets = offsets_.data();
    batch.documents = static_cast<int32_t>(offsets_.size()) - 1;
    return batch;
  }
  const std::vector<int32_t>& ids() const { return ids_; }
  const std::vector<int32_t>& offsets() const { return offsets_; }

 private:
  std::vector<int32_t> ids_, labels_;
  std::vector<int32_t> offsets_{0, 19, 36};  // DOCUMENTS of reference.py
};

// |actual - expected| / |expected| in the Euclidean norm.
struct Distance {
  double error = 0, size = 0;
  void add(const std::vector<float>& actual, const std::vector<float>& expected) {
    for (size_t i = 0; i < expected.size(); ++i) {
      const double difference = static_cast<double>(actual[i]) - expected[i];
      error += difference * difference;
      size += static_cast<double>(expected[i]) * expected[i];
    }
  }
  double relative() const { return std::sqrt(error / size); }
};
inline double distance(const std::vector<float>& actual, const std::vector<float>& expected) {
  Distance distance;
  distance.add(actual, expected);
  return distance.relative();
}

// Relative error that f32 may show: the additions on the longest path through the model and back,
// each off by one unit roundoff.
inline double f32_bound(const ModelConfig& config, int64_t longest) {
  const int64_t block = 4 * config.hidden + 2 * config.intermediate + 2 * longest +
                        2 * config.head_dim + 2 * config.heads * config.head_dim;
  return static_cast<double>(2 * (config.layers * block + config.hidden + config.vocabulary)) *
         kU32;
}

// With bf16 activations every matrix that the model writes is rounded: per block two norms, q, k, v
// (twice: before and after their rotation and norm), attention, its projection, gate, up, their
// product and the projection, there and back. Weights of another type may be rounded as well, each
// of the 7 linears, head and embedding. Roundings are independent, so they add in squares.
inline double bf16_bound(const ModelConfig& config, bool backward) {
  int64_t roundings = 13 * config.layers + 3;
  if (config.dtype != DType::kBF16) roundings += 7 * config.layers + 2;
  if (backward) roundings *= 2;
  return std::sqrt(static_cast<double>(roundings)) * unit_roundoff(DType::kBF16);
}

}  // namespace lowrank::test
