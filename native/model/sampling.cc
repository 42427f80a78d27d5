#include "model/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

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

// Not a number a softmax can take: plus infinity or NaN.
bool is_bad(float logit) { return !(logit < std::numeric_limits<float>::infinity()); }

int32_t find_largest(const std::vector<float>& logits) {
  // The search for the maximum is a loop of few instructions: it takes a part of every token.
  float largest = -std::numeric_limits<float>::infinity();
  bool bad = false;
  for (const float logit : logits) {
    bad |= is_bad(logit);
    largest = logit > largest ? logit : largest;
  }
  if (bad)
    throw Error(ErrorCode::kNotFinite, "the model's output is not finite",
                "logit " + std::to_string(std::find_if(logits.begin(), logits.end(), is_bad) -
                                          logits.begin()),
                "the model or the adapter holds bad values");
  if (largest == -std::numeric_limits<float>::infinity())
    throw Error(ErrorCode::kNotFinite, "the model excludes every token", "logits");
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), largest) - logits.begin());
}

}  // namespace

void Sampler::drop_behind(const Candidate& last) {
  std::erase_if(candidates_, [&](const Candidate& c) { return comes_before(last, c); });
}

void Sampler::keep_largest(size_t count) {
  if (count >= candidates_.size()) return;
  selected_.resize(count);
  std::partial_sort_copy(candidates_.begin(), candidates_.end(), selected_.begin(), selected_.end(),
                         comes_before);
  drop_behind(selected_.back());
}

double Sampler::total_weight() const {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  return total;
}

// Keeps the smallest set of the most likely whose weights reach `wanted` of `total`. Halves that
// can't hold the set's last member are put aside unsorted: a sort of a flat distribution would take
// longer than the model does.
void Sampler::keep_mass(double wanted, double total) {
  // Those below make less than what may be missing, all together.
  const double least = (total - wanted) / static_cast<double>(candidates_.size());
  selected_.clear();
  for (const Candidate& c : candidates_)
    if (c.weight >= least) selected_.push_back(c);
  auto begin = selected_.begin(), end = selected_.end();
  double mass = 0;  // of what comes before `begin`
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, comes_before);
    double half = 0;
    for (auto c = begin; c != middle; ++c) half += c->weight;
    if (mass + half >= wanted) {
      end = middle;
    } else {
      mass += half;
      begin = middle;
    }
  }
  drop_behind(*begin);
}

int32_t Sampler::sample(const std::vector<float>& logits, const SamplingOptions& options,
                        int64_t position) {
  check_options(options);
  const int32_t largest = find_largest(logits);
  if (options.temperature == 0 || options.top_k == 1) return largest;

  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i)
    candidates_.push_back({logits[i], static_cast<int32_t>(i), 0});
  if (options.top_k > 0) keep_largest(static_cast<size_t>(options.top_k));
  const double peak = logits[static_cast<size_t>(largest)];
  for (Candidate& c : candidates_) c.weight = std::exp((c.logit - peak) / options.temperature);
  double total = total_weight();
  if (options.top_p < 1) {
    keep_mass(double{options.top_p} * total, total);
    total = total_weight();
  }

  const uint64_t key =
      random_key(options.seed, RandomUse::kSample, static_cast<uint64_t>(position));
  double left = random_uniform(key, 0) * total;
  int32_t chosen = largest;
  for (const Candidate& c : candidates_) {
    if (c.weight == 0) continue;
    chosen = c.token;
    left -= c.weight;
    if (left < 0) break;
  }
  return chosen;
}

}  // namespace lowrank
