// Checks hand-written gradients of the scalar references. A reference runs in complex arithmetic
// with one input moved by i * 1e-30; the imaginary part of the result is the derivative, exact to
// rounding because nothing is subtracted (Squire & Trapp, SIAM Review 40(1), 1998).
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <functional>
#include <string>
#include <vector>

#include "support/operands.h"
#include "support/test.h"

namespace lowrank::test {

using Complex = std::complex<double>;

inline std::vector<double> random_values(int64_t count, uint64_t key, double deviation = 1) {
  std::vector<double> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = deviation * normal(key, i);
  return values;
}

inline std::vector<Complex> to_complex(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

// sum of seed[i] * output[i]: the scalar whose gradient is checked when d_output = seed.
inline Complex weighted_sum(const std::vector<double>& seed, const std::vector<Complex>& output) {
  Complex sum = 0;
  for (size_t i = 0; i < seed.size(); ++i) sum += seed[i] * output[i];
  return sum;
}

// `loss` maps one input (the others fixed) to a scalar; `gradient` is the hand-written derivative
// at `input`. Relative to the largest entry, since entries may cancel.
inline void check_gradient(const std::string& name, const std::vector<double>& input,
                           const std::vector<double>& gradient,
                           const std::function<Complex(const std::vector<Complex>&)>& loss,
                           double tolerance = 1e-11) {
  CHECK_EQ(gradient.size(), input.size());
  constexpr double kStep = 1e-30;
  std::vector<Complex> moved = to_complex(input);
  double largest = 0;
  std::vector<double> derivative(input.size());
  for (size_t i = 0; i < input.size(); ++i) {
    moved[i] = {input[i], kStep};
    derivative[i] = loss(moved).imag() / kStep;
    moved[i] = input[i];
    largest = std::max(largest, std::abs(derivative[i]));
  }
  CHECK(largest > 0);
  for (size_t i = 0; i < input.size(); ++i) {
    if (std::abs(gradient[i] - derivative[i]) <= tolerance * largest) continue;
    std::ostringstream text;
    text << name << "[" << i << "] is " << gradient[i] << ", the derivative is " << derivative[i];
    report_failure(__FILE__, __LINE__, text.str());
    return;
  }
}

}  // namespace lowrank::test
