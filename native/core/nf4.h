// The NF4 code book (Dettmers et al., "QLoRA", arXiv 2305.14314, appendix E) and its decision
// thresholds: the one place where these numbers stand, for every backend.
#pragma once

#include <array>
#include <cstddef>

namespace lowrank {

inline constexpr std::array<float, 16> kNf4Values = {-1.0f,
                                                     -0.6961928009986877f,
                                                     -0.5250730514526367f,
                                                     -0.39491748809814453f,
                                                     -0.28444138169288635f,
                                                     -0.18477343022823334f,
                                                     -0.09105003625154495f,
                                                     0.0f,
                                                     0.07958029955625534f,
                                                     0.16093020141124725f,
                                                     0.24611230194568634f,
                                                     0.33791524171829224f,
                                                     0.44070982933044434f,
                                                     0.5626170039176941f,
                                                     0.7229568362236023f,
                                                     1.0f};

// Threshold i lies half way between values i and i + 1, rounded to f32. A value's code is the
// number of thresholds below it, so a value exactly on a threshold takes the lower code.
inline constexpr std::array<float, 15> kNf4Thresholds = [] {
  std::array<float, 15> thresholds{};
  for (size_t i = 0; i < 15; ++i) thresholds[i] = (kNf4Values[i] + kNf4Values[i + 1]) / 2;
  return thresholds;
}();

// Absmax values below this count as this when a block is scaled, so that a block of zeros doesn't
// divide by zero (bitsandbytes' bound).
inline constexpr float kMinAbsmax = 1e-38f;

}  // namespace lowrank
