// Rotary frequencies against those of transformers.
#include "model/rope_tables.h"

#include "io/files.h"
#include "support/golden_model.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

constexpr int64_t kLongest = 19;  // of the golden documents

ModelConfig golden_config(const std::string& name) {
  const std::string file = golden_folder(name) + "/config.json";
  return parse_model_config(read_text_file(file), file);
}

}  // namespace

TEST(inverse_frequencies_and_attention_factors) {
  for (const std::string& name : golden_models()) {
    const SafetensorsFile file(golden_folder(name) + "/golden.safetensors");
    const ModelConfig config = golden_config(name);
    const std::vector<float> expected = floats(file.at("inv_freq"));
    const std::vector<float> actual = rope_frequencies(config, kLongest);
    CHECK_EQ(actual.size(), expected.size());
    // torch takes the power in f32 and then up to four more operations.
    for (size_t i = 0; i < expected.size(); ++i)
      CHECK_NEAR(actual[i], expected[i], 8 * kU32 * expected[i]);
    CHECK_NEAR(rope_attention_factor(config.rope), floats(file.at("attention_factor"))[0],
               2 * kU32 * 2);
  }
}

TEST(dynamic_scaling_starts_beyond_the_trained_length) {
  const ModelConfig config = golden_config("llama_dynamic");
  const std::vector<float> base = rope_frequencies(config, 3);
  CHECK(base == rope_frequencies(config, config.max_positions));
  const std::vector<float> longer = rope_frequencies(config, config.max_positions + 1);
  CHECK_EQ(longer[0], base[0]);
  for (size_t i = 1; i < base.size(); ++i) CHECK(longer[i] < base[i]);
}

TEST(tables_hold_the_scaled_cosines) {
  const ModelConfig config = golden_config("llama_yarn");
  const std::vector<float> frequencies = rope_frequencies(config, kLongest);
  const double factor = rope_attention_factor(config.rope);
  CHECK(factor > 1);
  std::vector<float> cos, sin;
  fill_rope_tables(config, kLongest, kLongest, &cos, &sin);
  const size_t half = frequencies.size();
  CHECK_EQ(cos.size(), static_cast<size_t>(kLongest) * half);
  for (size_t p = 0; p < static_cast<size_t>(kLongest); ++p) {
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * frequencies[i];
      // The angle's own rounding moves the cosine by at most angle * u.
      const double allowed = factor * (angle + 2) * kU32;
      CHECK_NEAR(cos[p * half + i], factor * std::cos(angle), allowed);
      CHECK_NEAR(sin[p * half + i], factor * std::sin(angle), allowed);
    }
  }
}

}  // namespace lowrank::test
