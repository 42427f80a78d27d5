// Twenty AdamW steps of LoRA, QLoRA and full fine-tuning against torch's, and the merged weights
// against peft's.
#include <cstring>
#include <filesystem>

#include "io/files.h"
#include "support/golden_model.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

constexpr int kSteps = 20, kRows = 6;

struct Run {
  const char* name;
  Quantization quantization;
  bool full;
};

// As curve() of generate.py.
std::vector<StepResult> train(const std::shared_ptr<Device>& device, const Run& run,
                              const SafetensorsFile& file) {
  ModelOptions options;
  options.quantization = run.quantization;
  options.trainable = run.full;
  const auto model = Model::load(device, golden_folder("llama"), options);
  const auto adapter =
      run.full ? nullptr : Adapter::load(*model, golden_folder("llama") + "/adapter");
  SessionOptions session_options;
  session_options.weight_decay = 0.1f;
  session_options.max_tokens = 36;
  Session session(model, adapter, session_options);
  std::vector<GoldenBatch> rows;
  for (int64_t row = 0; row < kRows; ++row) rows.emplace_back(file, row);
  std::vector<StepResult> results;
  for (int step = 0; step < kSteps; ++step) {
    StepOptions step_options;
    step_options.learning_rate = 5e-3f;
    step_options.step = step + 1;
    const size_t first = static_cast<size_t>(2 * step % kRows);
    results.push_back(session.step({rows[first].batch(), rows[first + 1].batch()}, step_options));
  }
  return results;
}

}  // namespace

TEST(losses_of_twenty_steps) {
  const SafetensorsFile file(golden_folder("llama") + "/curves.safetensors");
  const std::string config_file = golden_folder("llama") + "/config.json";
  const ModelConfig config = parse_model_config(read_text_file(config_file), config_file);
  const Run runs[] = {{"lora", Quantization::kNone, false},
                      {"qlora", Quantization::kNf4, false},
                      {"qlora_double", Quantization::kNf4Double, false},
                      {"full", Quantization::kNone, true}};
  for (const char* isa : {"reference", static_cast<const char*>(nullptr)}) {
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
