#include "model/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"

namespace lowrank {
namespace {

void check_options(const SamplingOptions& options) {
  const auto require = [](bool condition, const char* name, const char* message) {
    if (!condition) throw Error(ErrorCode::kInvalidArgument, message, name);
  };
  require(std::isfinite(options.temperature) && options.temperature >= 0, "temperature",
          "the temperature must be 0 or more");
  require(options.top_k >= 0, "top_k", "top_k must be 0 (off) or more");
  require(options.top_p > 0 && options.top_p <= 1, "top_p", "top_p must be above 0 and at most 1");
}

int32_t find_largest(const std::vector<float>& logits) {
  int32_t largest = -1;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity())
      throw Error(ErrorCode::kNotFinite, "the model's output is not finite",
                  "logit " + std::to_string(i), "the model or the adapter holds bad values");
    if (logits[i] == -std::numeric_limits<float>::infinity()) continue;
    if (largest < 0 || logits[i] > logits[static_cast<size_t>(largest)])
      largest = static_cast<int32_t>(i);
  }
  if (largest < 0) throw Error(ErrorCode::kNotFinite, "the model excludes every token", "logits");
  return largest;
}

}  // namespace

int32_t Sampler::sample(const std::vector<float>& logits, const SamplingOptions& options,
                        int64_t position) {
  check_options(options);
  const int32_t largest = find_largest(logits);
  if (options.temperature == 0 || options.top_k == 1) return largest;

  const size_t count = logits.size();
  const double peak = logits[static_cast<size_t>(largest)];
  const auto unnormalised = [&](int32_t token) {
    return std::exp((double{logits[static_cast<size_t>(token)]} - peak) / options.temperature);
  };
  order_.resize(count);
  std::iota(order_.begin(), order_.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  const size_t candidates =
      options.top_k > 0 ? std::min(count, static_cast<size_t>(options.top_k)) : count;
  // Sorted in growing pieces: usually a few tokens hold nearly all of the probability.
  size_t sorted = 0;
  const auto sort_up_to = [&](size_t end) {
    std::partial_sort(order_.begin() + static_cast<std::ptrdiff_t>(sorted),
                      order_.begin() + static_cast<std::ptrdiff_t>(end), order_.end(), before);
    sorted = end;
  };

  double total = 0;
  if (options.top_k > 0) {
    sort_up_to(candidates);
    for (size_t i = 0; i < candidates; ++i) total += unnormalised(order_[i]);
  } else {
    for (size_t i = 0; i < count; ++i) total += unnormalised(static_cast<int32_t>(i));
  }
  const double wanted =
      options.top_p < 1 ? double{options.top_p} * total : std::numeric_limits<double>::infinity();
  probability_.clear();
  double mass = 0;
  for (size_t i = 0; i < candidates && mass < wanted; ++i) {
    if (i == sorted) sort_up_to(std::min(candidates, std::max<size_t>(64, sorted * 4)));
    mass += unnormalised(order_[i]);
    probability_.push_back(mass);
  }

  const uint64_t key =
      random_key(options.seed, RandomUse::kSample, static_cast<uint64_t>(position));
  const double draw = random_uniform(key, 0) * mass;
  const auto chosen = std::upper_bound(probability_.begin(), probability_.end(), draw);
  const auto index = std::min<std::ptrdiff_t>(chosen - probability_.begin(),
                                              static_cast<std::ptrdiff_t>(probability_.size()) - 1);
  return order_[static_cast<size_t>(index)];
}

}  // namespace lowrank
