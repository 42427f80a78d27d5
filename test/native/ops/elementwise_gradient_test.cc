// Hand-written gradients of the row-wise references against complex-step derivatives.
#include "cpu/reference/embedding.h"
#include "cpu/reference/gated_activation.h"
#include "cpu/reference/layer_norm.h"
#include "cpu/reference/rms_norm.h"
#include "cpu/reference/rope.h"
#include "support/gradient_check.h"

using namespace lowrank;
using namespace lowrank::test;
using reference::View;

namespace {

constexpr int64_t kRows = 4, kCols = 6;

template <typename T>
View<T> as_matrix(std::vector<T>& values, int64_t cols = kCols) {
  const auto rows = static_cast<int64_t>(values.size()) / cols;
  return {values.data(), rows, cols, cols};
}

}  // namespace

TEST(rms_norm_gradient) {
  const auto x = random_values(kRows * kCols, 1), w = random_values(kCols, 2);
  const auto seed = random_values(kRows * kCols, 3), before = random_values(kRows * kCols, 4);
  const double eps = 1e-2;
  const auto loss = [&](std::vector<Complex> input, std::vector<Complex> weight) {
    std::vector<Complex> y(input.size());
    reference::rms_norm_forward<Complex, Complex, Complex>(as_matrix(input), as_matrix(y),
                                                           weight.data(), eps, nullptr);
    return weighted_sum(seed, y);
  };
  auto x_copy = x, seed_copy = seed, y = x;
  std::vector<double> rstd(kRows), d_x = before, d_w = before;
  reference::rms_norm_forward<double, double, double>(as_matrix(x_copy), as_matrix(y), w.data(),
                                                      eps, rstd.data());
  reference::rms_norm_backward<double, double, double>(as_matrix(x_copy), as_matrix(seed_copy),
                                                       as_matrix(d_x), true, w.data(), d_w.data(),
                                                       rstd.data());
  for (size_t i = 0; i < d_x.size(); ++i) d_x[i] -= before[i];
  d_w.resize(kCols);
  for (size_t i = 0; i < d_w.size(); ++i) d_w[i] -= before[i];
  check_gradient("d_x", x, d_x, [&](const auto& moved) { return loss(moved, to_complex(w)); });
  check_gradient("d_weight", w, d_w, [&](const auto& moved) { return loss(to_complex(x), moved); });
  // Without accumulation, and with d_x in d_y's place.
  auto in_place = seed;
  reference::rms_norm_backward<double, double, double>(as_matrix(x_copy), as_matrix(in_place),
                                                       as_matrix(in_place), false, w.data(),
                                                       nullptr, rstd.data());
  for (size_t i = 0; i < d_x.size(); ++i) CHECK_NEAR(in_place[i], d_x[i], 1e-12);
}

TEST(layer_norm_gradient) {
  const auto x = random_values(kRows * kCols, 1), w = random_values(kCols, 2);
  const auto b = random_values(kCols, 5), seed = random_values(kRows * kCols, 3);
  const auto before = random_values(kRows * kCols, 4);
  const double eps = 1e-2;
  const auto loss = [&](std::vector<Complex> input, std::vector<Complex> weight,
                        std::vector<Complex> bias) {
    std::vector<Complex> y(input.size());
    reference::layer_norm_forward<Complex, Complex, Complex>(
        as_matrix(input), as_matrix(y), weight.data(), bias.data(), eps, nullptr, nullptr);
    return weighted_sum(seed, y);
  };
  auto x_copy = x, seed_copy = seed, y = x;
  std::vector<double> mean(kRows), rstd(kRows), d_x = before, d_w(kCols), d_b(kCols);
  reference::layer_norm_forward<double, double, double>(as_matrix(x_copy), as_matrix(y), w.data(),
                                                        b.data(), eps, mean.data(), rstd.data());
  reference::layer_norm_backward<double, double, double>(as_matrix(x_copy), as_matrix(seed_copy),
                                                         as_matrix(d_x), true, w.data(), d_w.data(),
                                                         d_b.data(), mean.data(), rstd.data());
  for (size_t i = 0; i < d_x.size(); ++i) d_x[i] -= before[i];
  const auto cx = to_complex(x), cw = to_complex(w), cb = to_complex(b);
  check_gradient("d_x", x, d_x, [&](const auto& moved) { return loss(moved, cw, cb); });
  check_gradient("d_weight", w, d_w, [&](const auto& moved) { return loss(cx, moved, cb); });
  check_gradient("d_bias", b, d_b, [&](const auto& moved) { return loss(cx, cw, moved); });
  // Without accumulation, and with d_x in d_y's place.
  auto in_place = seed;
  reference::layer_norm_backward<double, double, double>(
      as_matrix(x_copy), as_matrix(in_place), as_matrix(in_place), false, w.data(),
      static_cast<double*>(nullptr), nullptr, mean.data(), rstd.data());
  for (size_t i = 0; i < d_x.size(); ++i) CHECK_NEAR(in_place[i], d_x[i], 1e-12);
}

TEST(layer_norm_values) {
  // (1, 2, 6): mean 3, variance 14 / 3.
  std::vector<double> x{1, 2, 6}, y(3), w{1, 2, 3}, b{0.5, 0, -1}, mean(1), rstd(1);
  reference::layer_norm_forward<double, double, double>(as_matrix(x, 3), as_matrix(y, 3), w.data(),
                                                        b.data(), 0, mean.data(), rstd.data());
  CHECK_NEAR(mean[0], 3, 1e-15);
  CHECK_NEAR(rstd[0], std::sqrt(3.0 / 14), 1e-15);
  CHECK_NEAR(y[0], -2 * std::sqrt(3.0 / 14) + 0.5, 1e-15);
  CHECK_NEAR(y[1], -2 * std::sqrt(3.0 / 14), 1e-15);
  CHECK_NEAR(y[2], 9 * std::sqrt(3.0 / 14) - 1, 1e-15);
}

TEST(rope_gradient_is_the_inverse_rotation) {
  constexpr int64_t kHeads = 2, kHeadDim = 8, kRotary = 6, kWidth = kHeads * kHeadDim;
  const auto x = random_values(3 * kWidth, 5), seed = random_values(3 * kWidth, 6);
  const int32_t positions[3] = {4, 0, 2};
  std::vector<float> cos, sin;
  for (int i = 0; i < 5 * kRotary / 2; ++i) {
    cos.push_back(std::cos(0.37f * static_cast<float>(i)));
    sin.push_back(std::sin(0.37f * static_cast<float>(i)));
  }
  const auto rotate = [&](auto values, bool inverse) {
    using T = typename decltype(values)::value_type;
    reference::rope<T, T>(as_matrix(values, kWidth), kHeads, kHeadDim, kRotary, positions,
                          cos.data(), sin.data(), inverse);
    return values;
  };
  check_gradient("d_x", x, rotate(seed, true),
                 [&](const auto& moved) { return weighted_sum(seed, rotate(moved, false)); });
}

TEST(gated_activation_gradients) {
  for (Activation activation :
       {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
    auto gate = random_values(kRows * kCols, 7, 2), up = random_values(kRows * kCols, 8);
    auto seed = random_values(kRows * kCols, 9);
    const auto loss = [&](std::vector<Complex> g, std::vector<Complex> u) {
      std::vector<Complex> y(g.size());
      reference::gated_activation_forward<Complex, Complex>(as_matrix(g), as_matrix(u),
                                                            as_matrix(y), activation);
      return weighted_sum(seed, y);
    };
    std::vector<double> d_gate(gate.size()), d_up(up.size());
    reference::gated_activation_backward<double, double>(as_matrix(gate), as_matrix(up),
                                                         as_matrix(seed), as_matrix(d_gate),
                                                         as_matrix(d_up), activation);
    check_gradient("d_gate", gate, d_gate,
                   [&](const auto& moved) { return loss(moved, to_complex(up)); });
    check_gradient("d_up", up, d_up,
                   [&](const auto& moved) { return loss(to_complex(gate), moved); });
  }
}

TEST(activation_values) {
  // From the definitions, by mpmath to 12 digits.
  const auto value = [](Activation activation, double x) {
    return reference::activate<double>(activation, x, nullptr);
  };
  CHECK_NEAR(value(Activation::kSilu, 1), 0.731058578630, 1e-12);
  CHECK_NEAR(value(Activation::kGelu, 1), 0.841344746069, 1e-12);
  CHECK_NEAR(value(Activation::kGeluTanh, 1), 0.841191990608, 1e-12);
  CHECK_NEAR(value(Activation::kSilu, -2), -0.238405844044, 1e-12);
  CHECK_EQ(value(Activation::kRelu, -2), 0.0);
}

TEST(embedding_gradient) {
  const int32_t ids[kRows] = {2, 0, 2, 4};
  auto seed = random_values(kRows * kCols, 11);
  const auto weight = random_values(5 * kCols, 12);
  std::vector<double> d_weight(weight.size());
  reference::embedding_backward<double, double, double>(ids, as_matrix(seed), d_weight.data(), -1);
  check_gradient("d_weight", weight, d_weight, [&](const std::vector<Complex>& moved) {
    std::vector<Complex> y(seed.size());
    reference::embedding_forward<Complex, Complex>(
        ids,
        [&](int64_t row, int64_t col) { return moved[static_cast<size_t>(row * kCols + col)]; },
        as_matrix(y));
    return weighted_sum(seed, y);
  });
}
