#include "model/sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "core/random.h"
#include "support/test.h"

namespace lowrank {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

SamplingOptions with(float temperature, int32_t top_k = 0, float top_p = 1, uint64_t seed = 1) {
  SamplingOptions options;
  options.temperature = temperature;
  options.top_k = top_k;
  options.top_p = top_p;
  options.seed = seed;
  return options;
}

std::vector<double> frequencies(const std::vector<float>& logits, const SamplingOptions& options,
                                int draws) {
  Sampler sampler;
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i)
    counts[static_cast<size_t>(sampler.sample(logits, options, i))] += 1.0 / draws;
  return counts;
}

TEST(temperature_0_takes_the_largest) {
  Sampler sampler;
  CHECK_EQ(sampler.sample({1, 3, 2}, with(0), 0), 1);
  CHECK_EQ(sampler.sample({1, 3, 3}, with(0), 0), 1);  // the first of equals
  CHECK_EQ(sampler.sample({1, 3, 2}, with(5, 1), 0), 1);
}

TEST(frequencies_follow_the_softmax) {
  const std::vector<float> logits{0, 1, 2, -1};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    double total = 0;
    for (float logit : logits) total += std::exp(logit / temperature);
    const std::vector<double> seen = frequencies(logits, with(temperature), 40000);
    // Five standard deviations of a frequency near 1/2.
    for (size_t i = 0; i < logits.size(); ++i)
      CHECK_NEAR(seen[i], std::exp(logits[i] / temperature) / total, 0.0125);
  }
}

TEST(top_k_and_top_p_cut_the_tail) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const float ln2 = std::log(2.0f);
  const std::vector<float> logits{-2 * ln2, -ln2, -3 * ln2, -3 * ln2};
  std::vector<double> seen = frequencies(logits, with(1, 2), 20000);
  CHECK_EQ(seen[2] + seen[3], 0.0);
  CHECK_NEAR(seen[1], 2.0 / 3, 0.02);
  seen = frequencies(logits, with(1, 0, 0.7f), 20000);  // 0.5 isn't enough, 0.75 is
  CHECK_EQ(seen[2] + seen[3], 0.0);
  CHECK_NEAR(seen[1], 2.0 / 3, 0.02);
  seen = frequencies(logits, with(1, 0, 0.4f), 1000);
  CHECK_NEAR(seen[1], 1, 1e-9);
  // top_p counts what top_k left: 0.5 of 0.875 is less than 0.6, so two of three tokens stay.
  seen = frequencies(logits, with(1, 3, 0.6f), 20000);
  CHECK_EQ(seen[2] + seen[3], 0.0);
  CHECK(seen[0] > 0);
  seen = frequencies(logits, with(1, 3), 20000);
  CHECK_EQ(seen[3], 0.0);  // of equals, the first
  CHECK(seen[2] > 0);
}

TEST(a_flat_distribution_keeps_thousands_of_tokens) {
  std::vector<float> logits(5000);
  const uint64_t key = random_key(3, RandomUse::kTest);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = random_uniform(key, i);
  // Flat enough that top_p 0.9 needs thousands of tokens; all are above the cut.
  std::vector<float> sorted = logits;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  double total = 0, mass = 0;
  for (float logit : logits) total += std::exp(double{logit});
  size_t kept = 0;
  while (mass < 0.9 * total) mass += std::exp(double{sorted[kept++]});
  CHECK(kept > 1000 && kept < 5000);
  Sampler sampler;
  for (int i = 0; i < 200; ++i) {
    const int32_t token = sampler.sample(logits, with(1, 0, 0.9f), i);
    CHECK(logits[static_cast<size_t>(token)] >= sorted[kept - 1]);
  }
}

TEST(draws_depend_on_seed_and_position_only) {
  const std::vector<float> logits(50, 1.0f);
  Sampler a, b;
  std::vector<int32_t> first, second, other;
  for (int i = 0; i < 20; ++i) first.push_back(a.sample(logits, with(1), i));
  for (int i = 19; i >= 0; --i) second.insert(second.begin(), b.sample(logits, with(1), i));
  for (int i = 0; i < 20; ++i) other.push_back(a.sample(logits, with(1, 0, 1, 2), i));
  CHECK(first == second);
  CHECK(first != other);
}

TEST(bad_logits_and_options_are_refused) {
  Sampler sampler;
  const float nan = std::nanf("");
  CHECK_ERROR(sampler.sample({1, nan, 2}, with(1), 0), ErrorCode::kNotFinite, "logit 1");
  CHECK_ERROR(sampler.sample({1, nan, 2}, with(0), 0), ErrorCode::kNotFinite, "logit 1");
  CHECK_ERROR(sampler.sample({1, kInfinity}, with(1), 0), ErrorCode::kNotFinite, "logit 1");
  CHECK_ERROR(sampler.sample({-kInfinity, -kInfinity}, with(1), 0), ErrorCode::kNotFinite,
              "every token");
  for (int i = 0; i < 50; ++i) CHECK_EQ(sampler.sample({-kInfinity, 0, -kInfinity}, with(1), i), 1);
  CHECK_ERROR(sampler.sample({1}, with(-1), 0), ErrorCode::kInvalidArgument, "temperature");
  CHECK_ERROR(sampler.sample({1}, with(nan), 0), ErrorCode::kInvalidArgument, "temperature");
  CHECK_ERROR(sampler.sample({1}, with(1, -1), 0), ErrorCode::kInvalidArgument, "top_k");
  CHECK_ERROR(sampler.sample({1}, with(1, 0, 0), 0), ErrorCode::kInvalidArgument, "top_p");
  CHECK_ERROR(sampler.sample({1}, with(1, 0, nan), 0), ErrorCode::kInvalidArgument, "top_p");
}

}  // namespace
}  // namespace lowrank
