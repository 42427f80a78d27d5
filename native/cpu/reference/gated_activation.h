// y = activation(gate) * up, or without `up` (GLU variants: Shazeer, arXiv 2002.05202) and its
// gradient. GELU (Hendrycks & Gimpel, arXiv 1606.08415) exact by erf, or by its tanh approximation.
#pragma once

#include "cpu/reference/scalar.h"

namespace lowrank::reference {

inline constexpr double kSqrt2OverPi = 0.79788456080286535588;
inline constexpr double kGeluCubic = 0.044715;

// The activation's value, and with `derivative` also its derivative.
template <typename S>
S activate(Activation activation, S x, S* derivative) {
  switch (activation) {
    case Activation::kSilu: {
      const S sigmoid = S(1) / (S(1) + std::exp(-x));
      if (derivative) *derivative = sigmoid * (S(1) + x * (S(1) - sigmoid));
      return x * sigmoid;
    }
    case Activation::kGelu: {
      const S cdf = S(0.5) * erfc_of(x * S(-0.70710678118654752440));
      const S density = S(0.39894228040143267794) * std::exp(S(-0.5) * x * x);
      if (derivative) *derivative = cdf + x * density;
      return x * cdf;
    }
    case Activation::kGeluTanh: {
      // (1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), which doesn't cancel for negative u.
      const S inner = S(2 * kSqrt2OverPi) * (x + S(kGeluCubic) * x * x * x);
      const S cdf = S(1) / (S(1) + std::exp(-inner));
      const S slope = S(2 * kSqrt2OverPi) * (S(1) + S(3 * kGeluCubic) * x * x);
      if (derivative) *derivative = cdf + x * cdf * (S(1) - cdf) * slope;
      return x * cdf;
    }
    case Activation::kRelu: {
      const bool positive = real_part(x) > 0;
      if (derivative) *derivative = positive ? S(1) : S(0);
      return positive ? x : S(0);
    }
  }
  return S{};
}

template <typename S, typename X>
void gated_activation_forward(View<X> gate, View<X> up, View<X> y, Activation activation) {
  for (int64_t t = 0; t < y.rows; ++t) {
    for (int64_t i = 0; i < y.cols; ++i) {
      const S value = activate<S>(activation, load<S>(gate.at(t, i)), nullptr);
      y.at(t, i) = store<X>(up ? value * load<S>(up.at(t, i)) : value);
    }
  }
}

template <typename S, typename X>
void gated_activation_backward(View<X> gate, View<X> up, View<X> d_y, View<X> d_gate, View<X> d_up,
                               Activation activation) {
  for (int64_t t = 0; t < d_y.rows; ++t) {
    for (int64_t i = 0; i < d_y.cols; ++i) {
      S slope{};
      const S value = activate<S>(activation, load<S>(gate.at(t, i)), &slope);
      const S gradient = load<S>(d_y.at(t, i)), factor = up ? load<S>(up.at(t, i)) : S(1);
      d_gate.at(t, i) = store<X>(gradient * factor * slope);
      if (up) d_up.at(t, i) = store<X>(gradient * value);
    }
  }
}

}  // namespace lowrank::reference
