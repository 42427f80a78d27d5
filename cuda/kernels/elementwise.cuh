// Rotary embedding, activations (gated where `up` isn't null), conversions: a thread per element or
// pair. The formulas and their sources stand in native/backend/backend.h.
#pragma once

#include "cuda/kernels/vectors.cuh"

namespace lowrank::cuda {

template <typename X>
LOWRANK_KERNEL void rope_kernel(View<X> x, int head_dim, int half, const int32_t* positions,
                                const float* cos, const float* sin, bool inverse) {
  const int64_t heads = x.cols / head_dim;
  for_each_element(x.rows, heads * half, [&](int64_t row, int64_t pair) {
    const int64_t i = pair % half, low = pair / half * head_dim + i, high = low + half;
    const int64_t angle = int64_t{positions[row]} * half + i;
    const float c = cos[angle], s = inverse ? -sin[angle] : sin[angle];
    const float a = as_float(x.at(row, low)), b = as_float(x.at(row, high));
    x.at(row, low) = element_from<X>(a * c - b * s);
    x.at(row, high) = element_from<X>(b * c + a * s);
  });
}

// The activation's value, and its derivative in *slope.
LOWRANK_DEVICE inline float activate(Activation activation, float x, float* slope) {
  switch (activation) {
    case Activation::kSilu: {
      const float sigmoid = 1 / (1 + expf(-x));
      *slope = sigmoid * (1 + x * (1 - sigmoid));
      return x * sigmoid;
    }
    case Activation::kGelu: {
      const float cdf = 0.5f * erfcf(x * -0.70710678f);
      *slope = cdf + x * (0.39894228f * expf(-0.5f * x * x));
      return x * cdf;
    }
    case Activation::kGeluTanh: {
      // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), which doesn't cancel for negative u.
      constexpr float kTwoSqrt2OverPi = 1.5957691216f, kCubic = 0.044715f;
      const float cdf = 1 / (1 + expf(-kTwoSqrt2OverPi * (x + kCubic * x * x * x)));
      *slope = cdf + x * cdf * (1 - cdf) * (kTwoSqrt2OverPi * (1 + 3 * kCubic * x * x));
      return x * cdf;
    }
    default:
      *slope = x > 0 ? 1.0f : 0.0f;
      return x > 0 ? x : 0.0f;
  }
}

template <typename X>
LOWRANK_KERNEL void gated_activation_kernel(View<X> gate, View<X> up, View<X> y,
                                            Activation activation) {
  for_each_chunk(y.rows, y.cols, [&](int64_t row, int64_t col, int64_t count) {
    float values[8], factors[8], slope;
    load8_floats(&gate.at(row, col), count, values);
    if (up.data) load8_floats(&up.at(row, col), count, factors);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) {
      values[i] = activate(activation, values[i], &slope);
      if (up.data) values[i] *= factors[i];
    }
    store8_floats(&y.at(row, col), count, values);
  });
}

template <typename X>
LOWRANK_KERNEL void gated_activation_backward_kernel(View<X> gate, View<X> up, View<X> d_y,
                                                     View<X> d_gate, View<X> d_up,
                                                     Activation activation) {
  for_each_chunk(d_y.rows, d_y.cols, [&](int64_t row, int64_t col, int64_t count) {
    float gates[8], factors[8], gradients[8];
    load8_floats(&gate.at(row, col), count, gates);
    load8_floats(&d_y.at(row, col), count, gradients);
    if (up.data) load8_floats(&up.at(row, col), count, factors);
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i) {
      float slope;
      const float value = activate(activation, gates[i], &slope);
      gates[i] = gradients[i] * (up.data ? factors[i] : 1) * slope;
      gradients[i] *= value;
    }
    store8_floats(&d_gate.at(row, col), count, gates);
    if (up.data) store8_floats(&d_up.at(row, col), count, gradients);
  });
}

template <typename From, typename To>
LOWRANK_KERNEL void cast_kernel(const From* from, To* to, int64_t count) {
  for_each_index(divide_up(count, 8), [&](int64_t chunk) {
    const int64_t at = chunk * 8, size = smaller<int64_t>(8, count - at);
    float values[8];
    load8_floats(from + at, size, values);
    store8_floats(to + at, size, values);
  });
}

}  // namespace lowrank::cuda
