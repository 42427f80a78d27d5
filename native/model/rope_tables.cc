#include "model/rope_tables.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lowrank {
namespace {

// "NTK-aware" scaling whose base grows with the sequence (dynamic).
double dynamic_theta(const RopeConfig& rope, int32_t dim, int64_t longest, int64_t max_positions) {
  const double limit = static_cast<double>(max_positions);
  const double length = std::max(static_cast<double>(longest), limit);
  const double growth = rope.factor * length / limit - (rope.factor - 1);
  return rope.theta * std::pow(growth, static_cast<double>(dim) / (dim - 2));
}

// YaRN (Peng et al., arXiv 2309.00071): interpolate low frequencies, keep high ones, ramp between.
void apply_yarn(const RopeConfig& rope, int32_t dim, std::vector<float>* frequencies) {
  const auto correction = [&](double rotations) {
    return dim * std::log(rope.original_max_positions / (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(rope.theta));
  };
  double low = correction(rope.beta_fast), high = correction(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies->size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double extrapolated = (*frequencies)[i];
    (*frequencies)[i] =
        static_cast<float>(extrapolated / rope.factor * ramp + extrapolated * (1 - ramp));
  }
}

void apply_llama3(const RopeConfig& rope, std::vector<float>* frequencies) {
  const double low_wavelength = rope.original_max_positions / rope.low_freq_factor;
  const double high_wavelength = rope.original_max_positions / rope.high_freq_factor;
  for (float& frequency : *frequencies) {
    const double original = frequency;
    const double wavelength = 2 * std::numbers::pi / original;
    if (wavelength < high_wavelength) continue;
    if (wavelength > low_wavelength) {
      frequency = static_cast<float>(original / rope.factor);
      continue;
    }
    const double smooth = (rope.original_max_positions / wavelength - rope.low_freq_factor) /
                          (rope.high_freq_factor - rope.low_freq_factor);
    frequency = static_cast<float>((1 - smooth) * original / rope.factor + smooth * original);
  }
}

}  // namespace

std::vector<float> rope_frequencies(const ModelConfig& config, int64_t longest) {
  const RopeConfig& rope = config.rope;
  const int32_t dim = config.rotary_dim;
  const double theta = rope.type == RopeType::kDynamic
                           ? dynamic_theta(rope, dim, longest, config.max_positions)
                           : rope.theta;
  std::vector<float> frequencies(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i)
    frequencies[i] = static_cast<float>(1 / std::pow(theta, 2 * static_cast<double>(i) / dim));
  if (rope.type == RopeType::kLinear)
    for (float& frequency : frequencies) frequency /= static_cast<float>(rope.factor);
  if (rope.type == RopeType::kYarn) apply_yarn(rope, dim, &frequencies);
  if (rope.type == RopeType::kLlama3) apply_llama3(rope, &frequencies);
  return frequencies;
}

float rope_attention_factor(const RopeConfig& rope) {
  if (rope.type != RopeType::kYarn) return 1;
  if (rope.attention_factor > 0) return static_cast<float>(rope.attention_factor);
  const auto mscale = [&](double scale) {
    return rope.factor <= 1 ? 1.0 : 0.1 * scale * std::log(rope.factor) + 1;
  };
  if (rope.mscale != 0 && rope.mscale_all_dim != 0)
    return static_cast<float>(mscale(rope.mscale) / mscale(rope.mscale_all_dim));
  return static_cast<float>(mscale(1));
}

void fill_rope_tables(const ModelConfig& config, int64_t longest, int64_t positions,
                      std::vector<float>* cos, std::vector<float>* sin) {
  const std::vector<float> frequencies = rope_frequencies(config, longest);
  const float factor = rope_attention_factor(config.rope);
  const size_t half = frequencies.size();
  cos->resize(static_cast<size_t>(positions) * half);
  sin->resize(cos->size());
  for (size_t p = 0; p < static_cast<size_t>(positions); ++p) {
    for (size_t i = 0; i < half; ++i) {
      // The angle is rounded to f32 as in transformers; its cosine is exact to the last bit or so.
      const float angle = static_cast<float>(p) * frequencies[i];
      (*cos)[p * half + i] = static_cast<float>(std::cos(static_cast<double>(angle))) * factor;
      (*sin)[p * half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * factor;
    }
  }
}

}  // namespace lowrank
