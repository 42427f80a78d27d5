// Reading with a cache gives what reading the whole text gives.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "support/test.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using namespace test;

constexpr int kVocabulary = 67;

std::string long_config() {
  std::string config = tiny_config(2);
  const std::string from = "\"max_position_embeddings\":64";
  return config.replace(config.find(from), from.size(), "\"max_position_embeddings\":700");
}

// An adapter that does something: B isn't zero.
std::shared_ptr<Adapter> trained_adapter(const Model& model) {
  const auto adapter = tiny_adapter(model);
  const uint64_t key = random_key(8, RandomUse::kTest);
  for (LoraModule& module : adapter->impl()->modules)
    for (int64_t i = 0; i < module.out * module.rank; ++i)
      module.b.as<float>()[i] = 0.1f * (random_uniform(key, static_cast<uint64_t>(i)) - 0.5f);
  return adapter;
}

double largest_difference(const float* a, const std::vector<float>& b) {
  double worst = 0;
  for (size_t i = 0; i < b.size(); ++i) worst = std::max(worst, std::abs(double{a[i]} - b[i]));
  return worst;
}

TEST(the_cache_gives_the_logits_of_the_whole_text) {
  const auto model = tiny_model(cpu(), {}, long_config());
  const auto adapter = trained_adapter(*model);
  const Documents text({600});  // more than two chunks
  for (const bool with_adapter : {false, true}) {
    const auto used = with_adapter ? adapter : nullptr;
    const std::vector<float> whole = forward_logits(model, used, text.ids.data(), 600);
    CHECK_EQ(whole.size(), size_t{600} * kVocabulary);
    Generator generator(model, used, 700);
    for (const int64_t count : {1, 255, 256, 257, 600}) {
      generator.prefill(text.ids.data(), count);
      CHECK_EQ(generator.length(), count);
      // f32 sums over up to 600 keys in another order; logits are of order 1.
      CHECK(largest_difference(&whole[static_cast<size_t>(count - 1) * kVocabulary],
                               generator.logits()) < 1e-4);
    }
  }
}

TEST(next_reads_what_it_samples) {
  const auto model = tiny_model(cpu());
  const Documents prompt({5});
  Generator generator(model, nullptr, 24);
  generator.prefill(prompt.ids.data(), 5);
  std::vector<int32_t> text(prompt.ids.begin(), prompt.ids.begin() + 5);
  SamplingOptions greedy, warm;
  warm.temperature = 1;
  warm.seed = 3;
  while (text.size() < 24) text.push_back(generator.next(text.size() % 2 ? greedy : warm));
  CHECK_EQ(generator.length(), 24);
  CHECK_ERROR(generator.next(greedy), ErrorCode::kInvalidArgument, "full");
  const std::vector<float> whole = forward_logits(model, nullptr, text.data(), 24);
  for (size_t i = 5; i < 24; ++i) {
    if (i % 2 == 0) continue;
    const float* row = &whole[(i - 1) * kVocabulary];
    CHECK_EQ(text[i], std::max_element(row, row + kVocabulary) - row);
  }

  // The same seed gives the same text; another one doesn't.
  const auto sample_with = [&](uint64_t seed) {
    warm.seed = seed;
    generator.prefill(prompt.ids.data(), 5);
    std::vector<int32_t> out;
    for (int i = 0; i < 15; ++i) out.push_back(generator.next(warm));
    return out;
  };
  const std::vector<int32_t> first = sample_with(1);
  CHECK(sample_with(1) == first);
  CHECK(sample_with(2) != first);
}

TEST(threads_change_no_logit) {
  const Documents text({40});
  const auto logits_with = [&](int threads) {
    const auto model = tiny_model(cpu(threads));
    Generator generator(model, nullptr, 64);
    generator.prefill(text.ids.data(), 40);
    SamplingOptions options;
    for (int i = 0; i < 5; ++i) generator.next(options);
    return generator.logits();
  };
  const std::vector<float> one = logits_with(1);
  CHECK(one == logits_with(2));
  CHECK(one == logits_with(3));
}

TEST(quantized_and_bf16_models_generate) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    ModelOptions options;
    options.compute = compute;
    options.quantization = Quantization::kNf4Double;
    const auto model = tiny_model(cpu(), options);
    const Documents text({30});
    const std::vector<float> whole = forward_logits(model, nullptr, text.ids.data(), 30);
    Generator generator(model, nullptr, 64);
    generator.prefill(text.ids.data(), 30);
    // bf16 activations: 8 bits, through a few rounded sums.
    const double tolerance = compute == DType::kF32 ? 1e-4 : 0.1;
    CHECK(largest_difference(&whole[29 * kVocabulary], generator.logits()) < tolerance);
    const uint64_t element = compute == DType::kF32 ? 4 : 2;
    CHECK_EQ(generator.cache_bytes(), 3 * 2 * 64 * 32 * element);
  }
}

TEST(an_aborted_prompt_leaves_nothing) {
  const auto model = tiny_model(cpu());
  const Documents text({30});
  Generator generator(model, nullptr, 64);
  std::atomic<bool> abort{true};
  CHECK_ERROR(generator.prefill(text.ids.data(), 30, &abort), ErrorCode::kAborted, "aborted");
  CHECK_EQ(generator.length(), 0);
  CHECK_ERROR(generator.logits(), ErrorCode::kInvalidArgument, "no prompt");
  abort = false;
  generator.prefill(text.ids.data(), 30, &abort);
  CHECK_EQ(generator.length(), 30);
}

TEST(bad_prompts_are_refused) {
  const auto model = tiny_model(cpu());
  const auto other = tiny_model(cpu());
  Documents text({30});
  CHECK_ERROR(Generator(model, nullptr, 0), ErrorCode::kInvalidArgument, "between 1 and 64");
  CHECK_ERROR(Generator(model, nullptr, 65), ErrorCode::kInvalidArgument, "between 1 and 64");
  CHECK_ERROR(Generator(model, tiny_adapter(*other), 8), ErrorCode::kInvalidArgument,
              "another model");
  Generator generator(model, nullptr, 20);
  SamplingOptions options;
  CHECK_ERROR(generator.next(options), ErrorCode::kInvalidArgument, "no prompt");
  CHECK_ERROR(generator.prefill(text.ids.data(), 30), ErrorCode::kInvalidArgument, "holds 20");
  CHECK_ERROR(generator.prefill(text.ids.data(), 0), ErrorCode::kInvalidArgument, "no tokens");
  text.ids[3] = kVocabulary;
  CHECK_ERROR(generator.prefill(text.ids.data(), 10), ErrorCode::kInvalidArgument,
              "id 67 of token 3");
  CHECK_ERROR(forward_logits(model, nullptr, text.ids.data(), 10), ErrorCode::kInvalidArgument,
              "id 67 of token 3");
  CHECK_ERROR(forward_logits(model, nullptr, text.ids.data(), 65), ErrorCode::kInvalidArgument,
              "between 1 and 64");
}

}  // namespace
}  // namespace lowrank
