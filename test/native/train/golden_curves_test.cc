// Twenty AdamW steps of LoRA, QLoRA and full fine-tuning against torch's, and the merged weights
// against peft's.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/dynamic_map.h"
#include "io/files.h"
#include "support/golden_model.h"
#include "support/temporary_folder.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

constexpr int kSteps = 20, kRows = 6;

struct Run {
  const char* name;
  Quantization quantization;
  bool full;
  DType compute = DType::kF32;
};

ModelConfig golden_config(const std::string& name) {
  const std::string file = golden_folder(name) + "/config.json";
  return parse_model_config(read_text_file(file), file);
}

// As curve() of curves.py.
// A moment of a saved state, decoded where it is codes.
std::vector<float> moments(const SafetensorsFile& states, const std::string& name) {
  const TensorView& tensor = states.at(name);
  if (tensor.dtype == DType::kF32) return floats(tensor);
  const bool first = name.compare(name.size() - 8, 8, ".exp_avg") == 0;
  const DynamicMap& map = first ? signed_dynamic_map() : unsigned_dynamic_map();
  const std::vector<float> absmax = floats(states.at(name + ".absmax"));
  const auto* codes = reinterpret_cast<const uint8_t*>(tensor.data);
  std::vector<float> out;
  for (size_t i = 0; i < static_cast<size_t>(tensor.count()); ++i)
    out.push_back(map.values[codes[i]] * absmax[i / 256]);
  return out;
}

std::vector<StepResult> train(Session& session, const SafetensorsFile& file) {
  std::vector<GoldenBatch> rows;
  for (int64_t row = 0; row < kRows; ++row) rows.emplace_back(file, row);
  std::vector<StepResult> results;
  for (int step = 0; step < kSteps; ++step) {
    StepOptions options;
    options.learning_rate = 5e-3f;
    options.step = step + 1;
    const size_t first = static_cast<size_t>(2 * step % kRows);
    results.push_back(session.step({rows[first].batch(), rows[first + 1].batch()}, options));
  }
  return results;
}

SessionOptions session_options(Optimizer optimizer = Optimizer::kAdamW) {
  SessionOptions options;
  options.optimizer = optimizer;
  options.weight_decay = 0.1f;
  options.max_tokens = 36;
  return options;
}

std::vector<StepResult> train(const std::shared_ptr<Device>& device, const Run& run,
                              const SafetensorsFile& file) {
  ModelOptions options;
  options.quantization = run.quantization;
  options.trainable = run.full;
  options.compute = run.compute;
  const auto model = Model::load(device, golden_folder("llama"), options);
  const auto adapter =
      run.full ? nullptr : Adapter::load(*model, golden_folder("llama") + "/adapter");
  Session session(model, adapter, session_options());
  return train(session, file);
}

}  // namespace

TEST(losses_of_twenty_steps) {
  const SafetensorsFile file(golden_folder("llama") + "/curves.safetensors");
  const ModelConfig config = golden_config("llama");
  const Run runs[] = {{"lora", Quantization::kNone, false},
                      {"qlora", Quantization::kNf4, false},
                      {"qlora_double", Quantization::kNf4Double, false},
                      {"full", Quantization::kNone, true}};
  for (const char* isa : golden_isas()) {
    const std::shared_ptr<Device> device = golden_device(isa);
    for (const Run& run : runs) {
      const std::string name = run.name;
      const std::vector<float> losses = floats(file.at(name + ".loss"));
      const std::vector<float> norms = floats(file.at(name + ".grad_norm"));
      const std::vector<StepResult> results = train(device, run, file);
      CHECK(results.front().loss > results.back().loss);
      // Independent roundings add in squares; each step adds its own to those before.
      const double one_step = std::sqrt(f32_bound(config, 19) * kU32);
      for (size_t i = 0; i < kSteps; ++i) {
        const double bound = static_cast<double>(i + 1) * one_step;
        CHECK_NEAR(results[i].loss, losses[i], bound * losses[i]);
        CHECK_NEAR(results[i].grad_norm, norms[i], bound * norms[i]);
      }
    }
  }
}

// Around the f32 curve lie torch's bf16 curve and this engine's, at most twice as far off: the
// distance of one curve is one draw of the roundings.
TEST(losses_of_twenty_bf16_steps) {
  const SafetensorsFile file(golden_folder("llama") + "/curves.safetensors");
  const double bound = bf16_bound(golden_config("llama"), true);
  for (const char* isa : golden_isas()) {
    const std::shared_ptr<Device> device = golden_device(isa);
    for (const Run& run : {Run{"lora", Quantization::kNone, false, DType::kBF16},
                           Run{"qlora", Quantization::kNf4, false, DType::kBF16}}) {
      const std::string name = run.name;
      std::vector<float> losses, norms;
      for (const StepResult& result : train(device, run, file)) {
        losses.push_back(static_cast<float>(result.loss));
        norms.push_back(static_cast<float>(result.grad_norm));
      }
      for (const auto& [what, actual] : {std::pair{".loss", losses}, {".grad_norm", norms}}) {
        const std::vector<float> exact = floats(file.at(name + what));
        const std::vector<float> torch = floats(file.at(name + "_bf16" + what));
        const double off = distance(actual, exact);
        if (!(off <= std::min(bound, 2 * distance(torch, exact))))
          report_failure(__FILE__, __LINE__, name + what + " is off by " + std::to_string(off));
      }
    }
  }
}

// Codes take the nearest value of a coarse grid, so that what rounding moves across a threshold
// grows from step to step; how far, the distance between torch's f32 and f64 runs says.
// test/native/ops/adamw_8bit_test.cc compares the codes themselves, over given gradients.
TEST(twenty_steps_of_8bit_adamw) {
  constexpr double kFactor = 4;
  const std::string base = golden_folder("llama_wide");
  const SafetensorsFile file(base + "/curve.safetensors");
  const double curves =
      std::max(floats(file.at("distance.loss"))[0], floats(file.at("distance.grad_norm"))[0]);
  for (const char* isa : golden_isas()) {
    ModelOptions options;
    options.trainable = true;
    const auto model = Model::load(golden_device(isa), base, options);
    Session session(model, nullptr, session_options(Optimizer::kAdamW8Bit));
    std::map<std::string, std::vector<float>> actual;
    for (const StepResult& result : train(session, file)) {
      actual["loss"].push_back(static_cast<float>(result.loss));
      actual["grad_norm"].push_back(static_cast<float>(result.grad_norm));
    }
    const TemporaryFolder folder;
    session.save_state(folder / "state");
    model->save(folder / "model", DType::kF32);
    const SafetensorsFile states(folder / "state"), weights(folder / "model/model.safetensors");
    for (const TensorView& expected : file.tensors()) {
      const std::string& name = expected.name;
      const TensorView* limit = file.find("distance." + name);
      if (!limit) continue;
      if (weights.find(name)) actual[name] = floats(weights.at(name));
      if (states.find(name)) actual[name] = moments(states, name);
      const double off = distance(actual.at(name), floats(expected));
      // Losses and norms are few numbers: the larger of two draws of the same drift.
      const bool curve = name == "loss" || name == "grad_norm";
      const double allowed = curve ? curves : floats(*limit)[0];
      if (!(off <= kFactor * allowed))
        report_failure(__FILE__, __LINE__, name + " is off by " + std::to_string(off));
    }
    const std::string block = "model.layers.0.self_attn.";
    CHECK(states.at(block + "q_proj.weight.exp_avg").dtype == DType::kU8);
    CHECK(states.at(block + "k_proj.weight.exp_avg").dtype == DType::kF32);
  }
}

TEST(merged_weights) {
  const std::string folder = os::make_temporary_directory(
      (std::filesystem::temp_directory_path() / "lowrank-merged-").string());
  const std::string base = golden_folder("llama");
  const MergeReport report =
      merge_adapter(golden_device(nullptr), base, base + "/adapter", folder + "/merged");
  const SafetensorsFile expected(base + "/merged.safetensors");
  const SafetensorsFile merged(folder + "/merged/model.safetensors");
  CHECK_EQ(report.tensors_merged, static_cast<int64_t>(expected.tensors().size()));
  const SafetensorsFile original(base + "/model.safetensors");
  CHECK_EQ(merged.tensors().size(), original.tensors().size());
  int64_t values = 0, different = 0;
  for (const TensorView& tensor : original.tensors()) {
    const TensorView* wanted = expected.find(tensor.name);
    const bool is_merged = wanted != nullptr;
    if (!wanted) wanted = &tensor;
    const TensorView& actual = merged.at(tensor.name);
    CHECK(actual.dtype == DType::kBF16 && actual.shape == wanted->shape);
    if (!is_merged) {
      CHECK(std::memcmp(actual.data, wanted->data, wanted->bytes) == 0);
      continue;
    }
    const auto* a = reinterpret_cast<const uint16_t*>(actual.data);
    const auto* b = reinterpret_cast<const uint16_t*>(wanted->data);
    values += wanted->count();
    for (int64_t i = 0; i < wanted->count(); ++i) {
      if (a[i] == b[i]) continue;
      ++different;
      const double from = to_float(BF16{a[i]}), to = to_float(BF16{b[i]});
      CHECK_NEAR(from, to, 2 * unit_roundoff(DType::kBF16) * std::abs(to));
    }
  }
  // Sums of four products in another order may fall on the other side of a rounding boundary: as
  // many as the f32 error is of the distance between neighbours.
  CHECK(static_cast<double>(different) <=
        1 + values * 2 * sum_bound(4) / unit_roundoff(DType::kBF16));
  std::filesystem::remove_all(folder);
}

}  // namespace lowrank::test
