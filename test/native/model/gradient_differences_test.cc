// Gradients against differences of the loss, where torch can't be the judge: with this engine's own
// dropout, with weights per token, and for windows, biases and norms together.
#include <algorithm>
#include <cmath>
#include <map>

#include "core/random.h"
#include "model/adapter.h"
#include "support/golden_model.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

constexpr int64_t kStep = 3;  // keys the dropout

// The loss in f64 from log-probabilities in f32.
class Probe {
 public:
  Probe(const std::string& name, double dropout, bool full) : name_(name) {
    const auto device = golden_device("reference");
    ModelOptions options;
    options.trainable = full;
    options.max_length = 64;
    model_ = Model::load(device, golden_folder(name), options);
    if (!full) {
      adapter_ = Adapter::load(*model_, golden_folder(name) + "/adapter");
      adapter_->impl()->options.lora_dropout = dropout;
    }
    const SafetensorsFile file(golden_folder(name) + "/golden.safetensors");
    row_ = std::make_unique<GoldenBatch>(file);
    for (size_t i = 0; i < row_->ids().size(); ++i)
      weights_.push_back(0.25f + random_uniform(random_key(5, RandomUse::kTest), i));
    SessionOptions session;
    session.max_tokens = static_cast<int64_t>(weights_.size());
    session_ = std::make_unique<Session>(model_, adapter_, session);
  }

  double loss(std::map<std::string, std::vector<float>>* gradients) {
    MicroBatch batch = row_->batch();
    batch.weights = weights_.data();
    gradients->clear();
    return session_->gradients({batch}, kStep, gradients).loss;
  }

  // Where a trained tensor's values stand.
  float* values(const std::string& name) {
    if (adapter_) {
      for (LoraModule& module : adapter_->impl()->modules) {
        const std::string base = "base_model.model." + module.name;
        if (name == base + ".lora_A.weight") return module.a.as<float>();
        if (name == base + ".lora_B.weight") return module.b.as<float>();
      }
      return nullptr;
    }
    for (const ModelImpl::Named& named : model_->impl()->parameters()) {
      if (named.name != name) continue;
      if (named.vector) return named.vector->mutable_get();
      return static_cast<float*>(const_cast<void*>(named.matrix->view.data));
    }
    return nullptr;
  }

  // The slope along a random direction through one tensor, by central differences of fourth order.
  void check(const std::string& tensor, const std::vector<float>& gradient) {
    float* parameter = values(tensor);
    CHECK(parameter != nullptr);
    if (!parameter) return;
    const std::vector<float> start(parameter, parameter + gradient.size());
    std::vector<float> direction(gradient.size());
    // Half of it random, half along the gradient, so that the slope is never lost in noise.
    double norm = 0, random_norm = 0, slope = 0;
    for (float g : gradient) norm += static_cast<double>(g) * g;
    norm = std::sqrt(norm);
    CHECK(norm > 0);
    const uint64_t key = random_key(std::hash<std::string>{}(tensor), RandomUse::kTest);
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] = random_normal(key, i);
      random_norm += static_cast<double>(direction[i]) * direction[i];
    }
    random_norm = std::sqrt(random_norm);
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] = static_cast<float>(direction[i] / random_norm + gradient[i] / norm);
      slope += static_cast<double>(direction[i]) * gradient[i];
    }
    constexpr double kMove = 0.005;
    std::map<std::string, std::vector<float>> ignored;
    const auto at = [&](double distance) {
      for (size_t i = 0; i < start.size(); ++i)
        parameter[i] = static_cast<float>(start[i] + distance * direction[i]);
      return loss(&ignored);
    };
    const double near = at(kMove) - at(-kMove), far = at(2 * kMove) - at(-2 * kMove);
    std::copy(start.begin(), start.end(), parameter);
    const double difference = (8 * near - far) / (12 * kMove);
    // f32 noise of the four losses over the distance; the formula's own error is of order kMove^4.
    const double noise = 18 * 6 * 4 * kU32 / (12 * kMove);
    const double allowed = noise + 2e-3 * std::abs(slope);
    if (!(std::abs(slope - difference) <= allowed)) {
      std::ostringstream text;
      text << name_ << ": slope along " << tensor << " is " << slope << ", differences say "
           << difference << " within " << allowed;
      report_failure(__FILE__, __LINE__, text.str());
    }
  }

  void check_all() {
    std::map<std::string, std::vector<float>> gradients;
    loss(&gradients);
    const auto fixed = gradients;
    CHECK(!fixed.empty());
    for (const auto& [tensor, gradient] : fixed) check(tensor, gradient);
  }

 private:
  std::string name_;
  std::shared_ptr<Model> model_;
  std::shared_ptr<Adapter> adapter_;
  std::unique_ptr<GoldenBatch> row_;
  std::vector<float> weights_;
  std::unique_ptr<Session> session_;
};

}  // namespace

TEST(adapter_gradients_with_dropout_and_token_weights) {
  for (const char* name : {"llama", "mistral", "qwen3", "smollm3"})
    Probe(name, 0.3, false).check_all();
}

TEST(gradients_of_every_parameter_with_token_weights) {
  for (const char* name : {"llama_biases", "llama_tied_v4", "qwen2", "qwen3"})
    Probe(name, 0, true).check_all();
}

}  // namespace lowrank::test
