// Language-model head and cross-entropy in one: the logits of one row at a time.
//   d logit[v] = -weights[i] * ((v == target) - softmax(logits)[v])
#pragma once

#include <algorithm>
#include <vector>

#include "cpu/reference/scalar.h"

namespace lowrank::reference {

template <typename P>
struct HeadLossOutputs {
  P* d_weight = nullptr;
  P* d_bias = nullptr;
  P* logprob = nullptr;
  uint8_t* correct = nullptr;
};

// d_x may be empty (forward only); d_weight and d_bias then stay untouched too.
template <typename S, typename X, typename P, typename GetWeight>
void head_loss(View<X> x, View<X> d_x, const int32_t* rows, const int32_t* targets,
               const P* weights, int64_t count, const GetWeight& weight, int64_t vocabulary,
               const P* bias, const HeadLossOutputs<P>& outputs) {
  const int64_t hidden = x.cols;
  const bool backward = d_x || outputs.d_weight || outputs.d_bias;
  for (int64_t t = 0; d_x && t < d_x.rows; ++t) {
    for (int64_t i = 0; i < hidden; ++i) d_x.at(t, i) = store<X>(S{});
  }
  std::vector<S> logits(static_cast<size_t>(vocabulary)), d_row(static_cast<size_t>(hidden));
  for (int64_t n = 0; n < count; ++n) {
    const int64_t row = rows[n], target = targets[n];
    double largest = -INFINITY;
    for (int64_t c = 0; c < vocabulary; ++c) {
      S logit = bias ? load<S>(bias[c]) : S{};
      for (int64_t i = 0; i < hidden; ++i) logit += load<S>(x.at(row, i)) * weight(c, i);
      logits[c] = logit;
      largest = std::max(largest, real_part(logit));
    }
    S sum{};
    for (int64_t c = 0; c < vocabulary; ++c) sum += std::exp(logits[c] - S(largest));
    const S lse = S(largest) + std::log(sum);
    outputs.logprob[n] = store<P>(logits[target] - lse);
    if (outputs.correct) outputs.correct[n] = real_part(logits[target]) >= largest;
    if (!backward) continue;
    std::fill(d_row.begin(), d_row.end(), S{});
    for (int64_t c = 0; c < vocabulary; ++c) {
      const S probability = std::exp(logits[c] - lse);
      const S d_logit = -load<S>(weights[n]) * (S(c == target ? 1 : 0) - probability);
      if (outputs.d_bias) outputs.d_bias[c] = store<P>(load<S>(outputs.d_bias[c]) + d_logit);
      for (int64_t i = 0; i < hidden; ++i) {
        d_row[i] += d_logit * weight(c, i);
        if (!outputs.d_weight) continue;
        P& gradient = outputs.d_weight[c * hidden + i];
        gradient = store<P>(load<S>(gradient) + d_logit * load<S>(x.at(row, i)));
      }
    }
    for (int64_t i = 0; d_x && i < hidden; ++i) d_x.at(row, i) = store<X>(d_row[i]);
  }
}

}  // namespace lowrank::reference
