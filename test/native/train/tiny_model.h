// A tiny random model and a fixed batch for tests of training.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "engine.h"
#include "model/adapter.h"
#include "model/weights.h"
#include "support/modelled_device.h"

namespace lowrank::test {

// With LOWRANK_MODELLED_FOLDER the CUDA kernels under their execution model.
inline std::shared_ptr<Device> cpu([[maybe_unused]] int threads = 1) {
#ifdef LOWRANK_MODELLED_FOLDER
  return modelled_device();
#else
  DeviceOptions options;
  options.threads = threads;
  return Device::open("cpu", options);
#endif
}

inline std::string tiny_config(int layers = 3, bool tied = false) {
  return std::string(
             R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":67,)"
             R"("hidden_size":64,"intermediate_size":96,"num_attention_heads":4,)"
             R"("num_key_value_heads":2,"max_position_embeddings":64,"rms_norm_eps":1e-5,)"
             R"("rope_theta":10000.0,"hidden_act":"silu","initializer_range":0.1,)"
             R"("torch_dtype":"float32","bos_token_id":1,"eos_token_id":2,)"
             R"("num_hidden_layers":)") +
         std::to_string(layers) + R"(,"tie_word_embeddings":)" + (tied ? "true" : "false") + "}";
}

inline std::shared_ptr<Model> tiny_model(const std::shared_ptr<Device>& device,
                                         const ModelOptions& options = {},
                                         const std::string& config = tiny_config()) {
  return Model::create(device, config, options, 11);
}

inline std::shared_ptr<Adapter> tiny_adapter(const Model& model, double dropout = 0) {
  LoraOptions options;
  options.r = 4;
  options.lora_alpha = 8;
  options.lora_dropout = dropout;
  options.target_modules = {"all-linear"};
  return Adapter::create(model, options, 5);
}

inline SessionOptions session_options(int64_t max_tokens = 32) {
  SessionOptions options;
  options.max_tokens = max_tokens;
  return options;
}

// Documents of random tokens; every token but the first of a document carries a label.
class Documents {
 public:
  explicit Documents(const std::vector<int32_t>& lengths, uint64_t seed = 1) {
    const uint64_t key = random_key(seed, RandomUse::kTest);
    for (int32_t length : lengths) {
      for (int32_t t = 0; t < length; ++t) {
        ids.push_back(static_cast<int32_t>(random_bits(key, ids.size()) % 67));
        labels.push_back(t == 0 ? -100 : ids.back());
        weights.push_back(1);
      }
      offsets.push_back(static_cast<int32_t>(ids.size()));
    }
  }

  MicroBatch batch() const {
    MicroBatch batch;
    batch.input_ids = ids.data();
    batch.labels = labels.data();
    batch.weights = weights.data();
    batch.tokens = static_cast<int64_t>(ids.size());
    batch.document_offsets = offsets.data();
    batch.documents = static_cast<int32_t>(offsets.size()) - 1;
    return batch;
  }

  std::vector<int32_t> ids, labels, offsets{0};
  std::vector<float> weights;
};

// The bits of everything that an adapter trains.
inline std::vector<float> adapter_values(const Adapter& adapter) {
  std::vector<float> values;
  const auto add = [&](const Buffer& buffer) {
    const size_t first = values.size();
    values.resize(first + buffer.bytes() / sizeof(float));
    buffer.download(values.data() + first, buffer.bytes());
  };
  for (const LoraModule& module : adapter.impl()->modules) {
    add(module.a);
    add(module.b);
  }
  for (const SavedModule& module : adapter.impl()->saved) add(module.value);
  return values;
}

// Losses of `count` steps from step `first` on.
inline std::vector<double> train(Session& session, const std::vector<MicroBatch>& batches,
                                 int count, int64_t first = 1, float learning_rate = 1e-2f) {
  std::vector<double> losses;
  for (int i = 0; i < count; ++i) {
    StepOptions options;
    options.learning_rate = learning_rate;
    options.step = first + i;
    losses.push_back(session.step(batches, options).loss);
  }
  return losses;
}

}  // namespace lowrank::test
