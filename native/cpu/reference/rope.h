// Rotary embedding in the rotate-half form (Su et al., arXiv 2104.09864), in place.
#pragma once

#include "cpu/reference/scalar.h"

namespace lowrank::reference {

template <typename S, typename X>
void rope(View<X> x, int64_t heads, int64_t head_dim, int64_t rotary_dim, const int32_t* positions,
          const float* cos, const float* sin, bool inverse) {
  const int64_t half = rotary_dim / 2;
  for (int64_t t = 0; t < x.rows; ++t) {
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t angle = positions[t] * half + i;
        const S c(static_cast<double>(cos[angle]));
        const S s(static_cast<double>(inverse ? -sin[angle] : sin[angle]));
        X& low = x.at(t, head * head_dim + i);
        X& high = x.at(t, head * head_dim + i + half);
        const S a = load<S>(low), b = load<S>(high);
        low = store<X>(a * c - b * s);
        high = store<X>(b * c + a * s);
      }
    }
  }
}

}  // namespace lowrank::reference
