// AdamW with f32 states (Loshchilov & Hutter, arXiv 1711.05101), and the squared norm of gradients.
#pragma once

#include "cpu/reference/scalar.h"

namespace lowrank::reference {

template <typename S, typename P>
void adamw(P* parameter, P* gradient, P* m, P* v, int64_t count, double learning_rate,
           double weight_decay, const AdamW& options) {
  const double step = static_cast<double>(options.step);
  const S correction1(1.0 - std::pow(options.beta1, step));
  const S correction2(1.0 - std::pow(options.beta2, step));
  for (int64_t i = 0; i < count; ++i) {
    const S g = load<S>(gradient[i]) * S(static_cast<double>(options.grad_scale));
    const S m_new = S(options.beta1) * load<S>(m[i]) + S(1 - options.beta1) * g;
    const S v_new = S(options.beta2) * load<S>(v[i]) + S(1 - options.beta2) * g * g;
    const S update = (m_new / correction1) / (std::sqrt(v_new / correction2) + S(options.eps));
    const S decayed = load<S>(parameter[i]) * S(1 - learning_rate * weight_decay);
    parameter[i] = store<P>(decayed - S(learning_rate) * update);
    m[i] = store<P>(m_new);
    v[i] = store<P>(v_new);
    gradient[i] = store<P>(S{});
  }
}

inline double squared_norm(const float* const* tensors, const int64_t* counts, int64_t count) {
  double sum = 0;
  for (int64_t t = 0; t < count; ++t) {
    for (int64_t i = 0; i < counts[t]; ++i)
      sum += static_cast<double>(tensors[t][i]) * static_cast<double>(tensors[t][i]);
  }
  return sum;
}

}  // namespace lowrank::reference
