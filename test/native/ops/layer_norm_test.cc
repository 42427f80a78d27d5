// LayerNorm of every instruction set against the scalar reference.
#include "ops/layer_norm.h"

#include <cmath>

#include "core/error.h"
#include "support/isa_check.h"
#include "support/op_cases.h"
#include "support/test.h"
#include "support/tolerance.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

std::string name_of(const char* op, const RowCase& c, DType dtype) {
  return std::string(op) + " [" + std::to_string(c.rows) + ", " + std::to_string(c.cols) + "] " +
         dtype_name(dtype);
}

std::vector<double> with_rounding(std::vector<double> bounds, const std::vector<double>& values,
                                  DType dtype) {
  for (size_t i = 0; i < bounds.size(); ++i)
    bounds[i] += 2 * unit_roundoff(dtype) * std::abs(values[i]) + 1e-37;
  return bounds;
}

constexpr double kEps = 1e-5;

// Errors of a forward pass. The mean is off by e = n u mean|x|; the sum of squared distances, taken
// to that mean, by n e^2 and its own roundings; and a distance by e and a rounding.
struct ForwardBounds {
  std::vector<double> y, mean, rstd;
};

ForwardBounds forward_bounds(const RowCase& c, const std::vector<double>& x,
                             const std::vector<double>& weight, const std::vector<double>& bias) {
  ForwardBounds bounds;
  const auto cols = static_cast<size_t>(c.cols);
  for (size_t t = 0; t < static_cast<size_t>(c.rows); ++t) {
    const double* row = &x[t * cols];
    double mean = 0, size = 0, variance = 0;
    for (size_t i = 0; i < cols; ++i) {
      mean += row[i] / static_cast<double>(cols);
      size += std::abs(row[i]) / static_cast<double>(cols);
    }
    for (size_t i = 0; i < cols; ++i)
      variance += (row[i] - mean) * (row[i] - mean) / static_cast<double>(cols);
    const double mean_error = sum_bound(c.cols) * size;
    const double rstd = 1 / std::sqrt(variance + kEps);
    const double relative = (sum_bound(c.cols, 8) + mean_error * mean_error * rstd * rstd) / 2;
    bounds.mean.push_back(mean_error);
    bounds.rstd.push_back(rstd * (relative + 4 * kU32));
    for (size_t i = 0; i < cols; ++i) {
      const double distance = std::abs(row[i] - mean);
      bounds.y.push_back(std::abs(weight[i]) * rstd *
                             (mean_error + distance * (relative + 8 * kU32)) +
                         2 * kU32 * std::abs(bias[i]));
    }
  }
  return bounds;
}

}  // namespace

TEST(layer_norm_forward_kernels) {
  for (const RowCase& c : kRowCases) {
    for (DType dtype : kActivations) {
      for (int variant = 0; variant < 3; ++variant) {
        check_every_isa(name_of("layer_norm", c, dtype), [&](std::shared_ptr<Device> device) {
          const bool in_place = variant == 1, with_bias = variant != 2;
          TestMatrix x(device, c.rows, c.cols, dtype, 1), y(device, c.rows, c.cols, dtype, 2);
          TestVector weight(device, c.cols, 3), bias(device, c.cols, 4);
          TestVector mean(device, c.rows, 5), rstd(device, c.rows, 6);
          auto biases = bias.values();
          if (!with_bias) biases.assign(biases.size(), 0);
          auto bounds = forward_bounds(c, x.values(), weight.values(), biases);
          LayerNormForward op;
          op.x = x.matrix();
          op.y = in_place ? x.matrix() : y.matrix();
          op.weight = weight.data();
          op.bias = with_bias ? bias.data() : nullptr;
          op.eps = static_cast<float>(kEps);
          op.mean = with_bias ? mean.data() : nullptr;
          op.rstd = with_bias ? rstd.data() : nullptr;
          ops::layer_norm_forward(*device, op);
          CHECK(x.padding_intact());
          CHECK(y.padding_intact());
          const auto values = (in_place ? x : y).values();
          Outputs outputs{{"y", values, with_rounding(bounds.y, values, dtype)}};
          if (with_bias) {
            const auto means = mean.values(), scales = rstd.values();
            outputs.push_back({"mean", means, with_rounding(bounds.mean, means, DType::kF32)});
            outputs.push_back({"rstd", scales, with_rounding(bounds.rstd, scales, DType::kF32)});
          }
          return outputs;
        });
      }
    }
  }
}

TEST(layer_norm_backward_kernels) {
  for (const RowCase& c : kRowCases) {
    for (DType dtype : kActivations) {
      for (int variant = 0; variant < 3; ++variant) {
        check_every_isa(
            name_of("layer_norm_backward", c, dtype), [&](std::shared_ptr<Device> device) {
              const bool accumulate = variant == 1, in_place = variant == 2;
              TestMatrix x(device, c.rows, c.cols, dtype, 1), d_y(device, c.rows, c.cols, dtype, 2);
              TestMatrix d_x(device, c.rows, c.cols, dtype, 3);
              TestVector weight(device, c.cols, 4), rstd(device, c.rows, 5, 0.1, 1);
              TestVector mean(device, c.rows, 8, 0.3), d_weight(device, c.cols, 6);
              TestVector d_bias(device, c.cols, 7);
              const auto xs = x.values(), dys = d_y.values(), ws = weight.values();
              const auto rs = rstd.values(), ms = mean.values(), before = d_x.values();
              auto scale_w = d_weight.values(), scale_b = d_bias.values();
              LayerNormBackward op;
              op.x = x.matrix();
              op.d_y = d_y.matrix();
              op.d_x = in_place ? d_y.matrix() : d_x.matrix();
              op.accumulate_d_x = accumulate;
              op.weight = weight.data();
              op.d_weight = variant == 0 ? nullptr : d_weight.data();
              op.d_bias = variant == 1 ? nullptr : d_bias.data();
              op.mean = mean.data();
              op.rstd = rstd.data();
              ops::layer_norm_backward(*device, op);
              CHECK(d_x.padding_intact());
              const auto values = (in_place ? d_y : d_x).values();
              std::vector<double> bounds(xs.size());
              const auto cols = static_cast<size_t>(c.cols);
              for (double& s : scale_w) s = std::abs(s);
              for (double& s : scale_b) s = std::abs(s);
              for (size_t t = 0; t < rs.size(); ++t) {
                double sum = 0, product = 0;
                for (size_t i = 0; i < cols; ++i) {
                  const size_t at = t * cols + i;
                  const double n = std::abs(xs[at] - ms[t]) * rs[t];
                  sum += std::abs(dys[at] * ws[i]) / static_cast<double>(cols);
                  product += std::abs(dys[at] * ws[i]) * n / static_cast<double>(cols);
                  scale_w[i] += std::abs(dys[at]) * n;
                  scale_b[i] += std::abs(dys[at]);
                }
                for (size_t i = 0; i < cols; ++i) {
                  const size_t at = t * cols + i;
                  const double n = std::abs(xs[at] - ms[t]) * rs[t];
                  bounds[at] = rs[t] * (std::abs(dys[at] * ws[i]) + sum + n * product);
                  if (accumulate) bounds[at] += std::abs(before[at]);
                  bounds[at] *= sum_bound(c.cols, 12);
                }
              }
              for (double& s : scale_w) s *= sum_bound(c.rows, 8);
              for (double& s : scale_b) s *= sum_bound(c.rows, 4);
              const auto d_ws = d_weight.values(), d_bs = d_bias.values();
              return Outputs{{"d_x", values, with_rounding(bounds, values, dtype)},
                             {"d_weight", d_ws, with_rounding(scale_w, d_ws, DType::kF32)},
                             {"d_bias", d_bs, with_rounding(scale_b, d_bs, DType::kF32)}};
            });
      }
    }
  }
}

TEST(layer_norm_checks_its_arguments) {
  const auto device = open_cpu("reference", 1);
  TestMatrix x(device, 2, 5, DType::kF32, 1), y(device, 2, 5, DType::kF32, 2);
  TestVector weight(device, 5, 3), statistics(device, 2, 4);
  LayerNormForward op;
  op.x = x.matrix();
  op.y = y.matrix();
  CHECK_ERROR(ops::layer_norm_forward(*device, op), ErrorCode::kInvalidArgument, "weight is null");
  op.weight = weight.data();
  op.y.cols = 4;
  CHECK_ERROR(ops::layer_norm_forward(*device, op), ErrorCode::kInvalidArgument,
              "[layer_norm_forward] y is [2, 4], expected [2, 5]");
  LayerNormBackward back;
  back.x = x.matrix();
  back.d_y = back.d_x = y.matrix();
  back.weight = weight.data();
  back.mean = statistics.data();
  CHECK_ERROR(ops::layer_norm_backward(*device, back), ErrorCode::kInvalidArgument, "rstd is null");
  back.rstd = statistics.data();
  back.accumulate_d_x = true;
  CHECK_ERROR(ops::layer_norm_backward(*device, back), ErrorCode::kInvalidArgument,
              "d_x overlaps d_y");
}
