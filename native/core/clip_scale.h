// What clipping to a global norm multiplies gradients by; the same on every device.
#pragma once

#include <limits>

namespace lowrank {

// As torch.nn.utils.clip_grad_norm_: 1 where `max_norm` isn't positive or `norm` (not negative)
// doesn't exceed it. NaN where `norm` isn't finite: nothing may be updated then.
constexpr float clip_scale(double norm, double max_norm) {
  if (!(norm <= std::numeric_limits<double>::max())) return std::numeric_limits<float>::quiet_NaN();
  if (!(max_norm > 0) || norm <= max_norm) return 1;
  return static_cast<float>(max_norm / (norm + 1e-6));
}

}  // namespace lowrank
