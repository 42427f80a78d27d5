// RMSNorm (Zhang & Sennrich, arXiv 1910.07467): y = x * rstd * weight. With c = mean(dy * w * x):
//   dx = rstd * (dy * w - x * rstd^2 * c),  dw += sum over rows of dy * x * rstd.
#pragma once

#include <vector>

#include "cpu/reference/scalar.h"

namespace lowrank::reference {

template <typename S, typename X, typename P>
void rms_norm_forward(View<X> x, View<X> y, const P* weight, double eps, P* rstd) {
  for (int64_t t = 0; t < x.rows; ++t) {
    S sum{};
    for (int64_t i = 0; i < x.cols; ++i) sum += load<S>(x.at(t, i)) * load<S>(x.at(t, i));
    const S scale = S(1) / std::sqrt(sum / S(static_cast<double>(x.cols)) + S(eps));
    if (rstd) rstd[t] = store<P>(scale);
    for (int64_t i = 0; i < x.cols; ++i)
      y.at(t, i) = store<X>(load<S>(x.at(t, i)) * scale * load<S>(weight[i]));
  }
}

template <typename S, typename X, typename P>
void rms_norm_backward(View<X> x, View<X> d_y, View<X> d_x, bool accumulate_d_x, const P* weight,
                       P* d_weight, const P* rstd) {
  std::vector<S> d_w(static_cast<size_t>(d_weight ? x.cols : 0));
  for (int64_t t = 0; t < x.rows; ++t) {
    const S scale = load<S>(rstd[t]);
    S mean{};
    for (int64_t i = 0; i < x.cols; ++i) {
      const S product = load<S>(d_y.at(t, i)) * load<S>(x.at(t, i));
      mean += product * load<S>(weight[i]);
      if (d_weight) d_w[i] += product * scale;
    }
    mean /= S(static_cast<double>(x.cols));
    for (int64_t i = 0; i < x.cols; ++i) {
      const S gradient = scale * (load<S>(d_y.at(t, i)) * load<S>(weight[i]) -
                                  load<S>(x.at(t, i)) * scale * scale * mean);
      const S before = accumulate_d_x ? load<S>(d_x.at(t, i)) : S{};
      d_x.at(t, i) = store<X>(before + gradient);
    }
  }
  for (size_t i = 0; i < d_w.size(); ++i) d_weight[i] = store<P>(load<S>(d_weight[i]) + d_w[i]);
}

}  // namespace lowrank::reference
