// LayerNorm (Ba, Kiros & Hinton, arXiv 1607.06450): y = n * weight + bias with n = (x - mean) *
// rstd. With g = dy * weight:
//   dx = rstd * (g - mean(g) - n * mean(g * n)),  dw += sum of dy * n,  db += sum of dy over rows.
#pragma once

#include <vector>

#include "cpu/reference/scalar.h"

namespace lowrank::reference {

template <typename S, typename X, typename P>
void layer_norm_forward(View<X> x, View<X> y, const P* weight, const P* bias, double eps, P* mean,
                        P* rstd) {
  const S count(static_cast<double>(x.cols));
  for (int64_t t = 0; t < x.rows; ++t) {
    S sum{}, squares{};
    for (int64_t i = 0; i < x.cols; ++i) sum += load<S>(x.at(t, i));
    const S centre = sum / count;
    for (int64_t i = 0; i < x.cols; ++i) {
      const S distance = load<S>(x.at(t, i)) - centre;
      squares += distance * distance;
    }
    const S scale = S(1) / std::sqrt(squares / count + S(eps));
    if (mean) mean[t] = store<P>(centre);
    if (rstd) rstd[t] = store<P>(scale);
    for (int64_t i = 0; i < x.cols; ++i) {
      const S normalized = (load<S>(x.at(t, i)) - centre) * scale;
      y.at(t, i) = store<X>(normalized * load<S>(weight[i]) + (bias ? load<S>(bias[i]) : S{}));
    }
  }
}

template <typename S, typename X, typename P>
void layer_norm_backward(View<X> x, View<X> d_y, View<X> d_x, bool accumulate_d_x, const P* weight,
                         P* d_weight, P* d_bias, const P* mean, const P* rstd) {
  const S count(static_cast<double>(x.cols));
  std::vector<S> d_w(static_cast<size_t>(x.cols)), d_b(static_cast<size_t>(x.cols));
  std::vector<S> normalized(static_cast<size_t>(x.cols)), gradient(static_cast<size_t>(x.cols));
  for (int64_t t = 0; t < x.rows; ++t) {
    const S scale = load<S>(rstd[t]);
    S sum{}, product{};
    for (int64_t i = 0; i < x.cols; ++i) {
      const auto at = static_cast<size_t>(i);
      const S d = load<S>(d_y.at(t, i));
      normalized[at] = (load<S>(x.at(t, i)) - load<S>(mean[t])) * scale;
      gradient[at] = d * load<S>(weight[i]);
      sum += gradient[at];
      product += gradient[at] * normalized[at];
      d_w[at] += d * normalized[at];
      d_b[at] += d;
    }
    for (int64_t i = 0; i < x.cols; ++i) {
      const auto at = static_cast<size_t>(i);
      const S before = accumulate_d_x ? load<S>(d_x.at(t, i)) : S{};
      d_x.at(t, i) = store<X>(
          before + scale * (gradient[at] - sum / count - normalized[at] * (product / count)));
    }
  }
  for (size_t i = 0; i < d_w.size(); ++i) {
    if (d_weight) d_weight[i] = store<P>(load<S>(d_weight[i]) + d_w[i]);
    if (d_bias) d_bias[i] = store<P>(load<S>(d_bias[i]) + d_b[i]);
  }
}

}  // namespace lowrank::reference
