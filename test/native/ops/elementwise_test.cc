// The row-wise kernels of every instruction set against the scalar reference.
#include <cmath>

#include "ops/cast.h"
#include "ops/embedding.h"
#include "ops/gated_activation.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
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

// bound = relative * |scale|, and the roundings of the output on both sides.
std::vector<double> bounds_of(const std::vector<double>& values, const std::vector<double>& scale,
                              double relative, DType dtype) {
  std::vector<double> bounds;
  for (size_t i = 0; i < values.size(); ++i)
    bounds.push_back(relative * std::abs(scale[i]) +
                     2 * unit_roundoff(dtype) * std::abs(values[i]) + 1e-37);
  return bounds;
}

void check_padding(const TestMatrix& matrix) { CHECK(matrix.padding_intact()); }

}  // namespace

TEST(rms_norm_forward_kernels) {
  for (const RowCase& c : kRowCases) {
    for (DType dtype : kActivations) {
      for (bool in_place : {false, true}) {
        check_every_isa(name_of("rms_norm", c, dtype), [&](std::shared_ptr<Device> device) {
          TestMatrix x(device, c.rows, c.cols, dtype, 1), y(device, c.rows, c.cols, dtype, 2);
          TestVector weight(device, c.cols, 3), rstd(device, c.rows, 4);
          RmsNormForward op;
          op.x = x.matrix();
          op.y = in_place ? x.matrix() : y.matrix();
          op.weight = weight.data();
          op.eps = 1e-5f;
          op.rstd = rstd.data();
          ops::rms_norm_forward(*device, op);
          check_padding(x);
          check_padding(y);
          // The sum of squares has no cancellation: half its relative error reaches rstd.
          const double relative = sum_bound(c.cols) / 2 + 6 * kU32;
          const auto values = (in_place ? x : y).values(), scales = rstd.values();
          return Outputs{{"y", values, bounds_of(values, values, relative, dtype)},
                         {"rstd", scales, bounds_of(scales, scales, relative, DType::kF32)}};
        });
      }
    }
  }
}

TEST(rms_norm_backward_kernels) {
  for (const RowCase& c : kRowCases) {
    for (DType dtype : kActivations) {
      for (int variant = 0; variant < 3; ++variant) {
        check_every_isa(
            name_of("rms_norm_backward", c, dtype), [&](std::shared_ptr<Device> device) {
              const bool accumulate = variant == 1, in_place = variant == 2;
              TestMatrix x(device, c.rows, c.cols, dtype, 1), d_y(device, c.rows, c.cols, dtype, 2);
              TestMatrix d_x(device, c.rows, c.cols, dtype, 3);
              TestVector weight(device, c.cols, 4), rstd(device, c.rows, 5, 0.1, 1);
              TestVector d_weight(device, c.cols, 6);
              const auto xs = x.values(), dys = d_y.values(), ws = weight.values();
              const auto rs = rstd.values(), before = d_x.values(), before_w = d_weight.values();
              RmsNormBackward op;
              op.x = x.matrix();
              op.d_y = d_y.matrix();
              op.d_x = in_place ? d_y.matrix() : d_x.matrix();
              op.accumulate_d_x = accumulate;
              op.weight = weight.data();
              op.d_weight = variant == 0 ? nullptr : d_weight.data();
              op.rstd = rstd.data();
              ops::rms_norm_backward(*device, op);
              check_padding(d_x);
              const auto values = (in_place ? d_y : d_x).values(), d_ws = d_weight.values();
              std::vector<double> scale(xs.size()), scale_w(before_w);
              const auto cols = static_cast<size_t>(c.cols);
              for (size_t t = 0; t < rs.size(); ++t) {
                double mean = 0;
                for (size_t i = 0; i < cols; ++i) {
                  const double product = std::abs(xs[t * cols + i] * dys[t * cols + i]);
                  mean += product * std::abs(ws[i]) / static_cast<double>(cols);
                  scale_w[i] = std::abs(scale_w[i]) + product * rs[t];
                }
                for (size_t i = 0; i < cols; ++i) {
                  const size_t at = t * cols + i;
                  scale[at] =
                      rs[t] * (std::abs(dys[at] * ws[i]) + std::abs(xs[at]) * rs[t] * rs[t] * mean);
                  if (accumulate) scale[at] += std::abs(before[at]);
                }
              }
              return Outputs{
                  {"d_x", values, bounds_of(values, scale, sum_bound(c.cols, 10), dtype)},
                  {"d_weight", d_ws, bounds_of(d_ws, scale_w, sum_bound(c.rows, 6), DType::kF32)}};
            });
      }
    }
  }
}

TEST(rope_kernels) {
  for (const RopeCase& c : kRopeCases) {
    for (DType dtype : kActivations) {
      for (bool inverse : {false, true}) {
        check_every_isa(
            "rope " + std::to_string(c.head_dim) + " " + dtype_name(dtype),
            [&](std::shared_ptr<Device> device) {
              const int64_t half = c.rotary_dim / 2;
              TestMatrix x(device, c.rows, c.heads * c.head_dim, dtype, 1);
              const auto before = x.values();
              std::vector<double> cos, sin;
              for (int64_t i = 0; i < c.rows * half; ++i) {
                cos.push_back(std::cos(0.1 * static_cast<double>(i)));
                sin.push_back(std::sin(0.1 * static_cast<double>(i)));
              }
              std::vector<int32_t> order;
              for (int64_t t = 0; t < c.rows; ++t)
                order.push_back(static_cast<int32_t>(c.rows - 1 - t));
              TestVector cos_table(device, cos), sin_table(device, sin);
              TestIndices positions(device, order);
              Rope op;
              op.x = x.matrix();
              op.heads = c.heads;
              op.head_dim = c.head_dim;
              op.rotary_dim = c.rotary_dim;
              op.positions = positions.data();
              op.cos = cos_table.data();
              op.sin = sin_table.data();
              op.inverse = inverse;
              ops::rope(*device, op);
              check_padding(x);
              const auto values = x.values();
              // Two products and a sum of a pair; |cos|, |sin| <= 1. Elements behind rotary_dim
              // stay.
              std::vector<double> scale(values.size());
              for (size_t i = 0; i < scale.size(); ++i) {
                const auto in_head = static_cast<int64_t>(i) % c.head_dim;
                if (in_head >= c.rotary_dim) continue;
                const int64_t other = static_cast<int64_t>(i) + (in_head < half ? half : -half);
                scale[i] = std::abs(before[i]) + std::abs(before[static_cast<size_t>(other)]);
              }
              return Outputs{{"x", values, bounds_of(values, scale, 3 * kU32, dtype)}};
            });
      }
    }
  }
}

TEST(gated_activation_kernels) {
  for (const RowCase& c : kRowCases) {
    for (DType dtype : kActivations) {
      for (Activation activation :
           {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kRelu}) {
        for (bool gated : {true, false}) {
          check_every_isa(
              name_of(gated ? "gated_activation" : "activation", c, dtype),
              [&](std::shared_ptr<Device> device) {
                TestMatrix gate(device, c.rows, c.cols, dtype, 1, 3),
                    up(device, c.rows, c.cols, dtype, 2);
                TestMatrix y(device, c.rows, c.cols, dtype, 3),
                    d_y(device, c.rows, c.cols, dtype, 4);
                const auto gates = gate.values(), dys = d_y.values();
                auto ups = up.values();
                if (!gated) ups.assign(ups.size(), 1);
                GatedActivationForward forward;
                forward.gate = gate.matrix();
                if (gated) forward.up = up.matrix();
                forward.y = y.matrix();
                forward.activation = activation;
                ops::gated_activation_forward(*device, forward);
                const auto values = y.values();
                GatedActivationBackward backward;  // both gradients in their inputs' place
                backward.gate = backward.d_gate = gate.matrix();
                if (gated) backward.up = backward.d_up = up.matrix();
                backward.d_y = d_y.matrix();
                backward.activation = activation;
                ops::gated_activation_backward(*device, backward);
                check_padding(gate);
                check_padding(up);
                check_padding(y);
                // The argument of exp or erfc has a relative error of some roundings; it reaches
                // the value multiplied by the argument, which is at most 1 + |x| + x^2 here (|x| <
                // 14).
                std::vector<double> scale, scale_gate, scale_up;
                for (size_t i = 0; i < gates.size(); ++i) {
                  const double x = gates[i], condition = 1 + std::abs(x) + x * x;
                  scale.push_back(values[i] * condition);
                  // value / x = the cumulative part; the slope adds at most |x| times the density.
                  const double tail = std::exp(-std::abs(x)) * (1 + std::abs(x));
                  scale_gate.push_back(std::abs(dys[i] * ups[i]) * condition * (x > 0 ? 1 : tail));
                  scale_up.push_back(std::abs(dys[i] * x) * condition * (x > 0 ? 1 : tail));
                }
                const auto d_gates = gate.values(), d_ups = up.values();
                const double relative = 16 * kU32;
                // Without `up` its memory keeps its bits.
                return Outputs{
                    {"y", values, bounds_of(values, scale, relative, dtype)},
                    {"d_gate", d_gates, bounds_of(d_gates, scale_gate, relative, dtype)},
                    {"d_up", d_ups,
                     gated ? bounds_of(d_ups, scale_up, relative, dtype) : std::vector<double>{}}};
              });
        }
      }
    }
  }
}

TEST(embedding_kernels) {
  for (const RowCase& c : kRowCases) {
    for (DType dtype : kActivations) {
      for (const StorageCase& storage : kStorages) {
        check_every_isa(
            name_of("embedding", c, dtype) + " " + storage.name,
            [&](std::shared_ptr<Device> device) {
              constexpr int64_t kVocabulary = 11;
              TestWeight weight(device, kVocabulary, c.cols, storage.storage, storage.double_quant,
                                1, 1);
              TestMatrix y(device, c.rows, c.cols, dtype, 2), d_y(device, c.rows, c.cols, dtype, 3);
              TestVector d_weight(device, kVocabulary * c.cols, 4);
              std::vector<int32_t> tokens;
              for (int64_t t = 0; t < c.rows; ++t)
                tokens.push_back(static_cast<int32_t>(t * t % 7));
              TestIndices ids(device, tokens);
              EmbeddingForward forward;
              forward.ids = ids.data();
              forward.weight = weight.weight();
              forward.y = y.matrix();
              ops::embedding_forward(*device, forward);
              EmbeddingBackward backward;
              backward.ids = ids.data();
              backward.d_y = d_y.matrix();
              backward.d_weight = d_weight.data();
              ops::embedding_backward(*device, backward);
              const std::vector<double> every = d_weight.values();
              backward.padding_id = 1;  // tokens 1, 6, 8, 13, ...: its row stays as it was
              ops::embedding_backward(*device, backward);
              for (int64_t i = c.cols; i < 2 * c.cols; ++i)
                CHECK_EQ(d_weight.values()[static_cast<size_t>(i)], every[static_cast<size_t>(i)]);
              check_padding(y);
              // Conversion is exact rounding, and the sum's order is part of the contract: same
              // bits.
              return Outputs{{"y", y.values(), {}}, {"d_weight", d_weight.values(), {}}};
            });
      }
    }
  }
}

// More tokens than a sort has threads, ids of several digits, and one id that is everywhere.
TEST(embedding_gradient_of_many_tokens) {
  constexpr int64_t kTokens = 1500, kCols = 9, kVocabulary = 5000;
  std::vector<int32_t> tokens;
  for (int64_t t = 0; t < kTokens; ++t)
    tokens.push_back(t % 3 == 0 ? 4321 : static_cast<int32_t>(t * 7919 % kVocabulary));
  check_every_isa("embedding gradient", [&](std::shared_ptr<Device> device) {
    TestMatrix d_y(device, kTokens, kCols, DType::kF32, 1);
    TestVector d_weight(device, kVocabulary * kCols, 2);
    TestIndices ids(device, tokens);
    EmbeddingBackward op;
    op.ids = ids.data();
    op.d_y = d_y.matrix();
    op.d_weight = d_weight.data();
    ops::embedding_backward(*device, op);
    return Outputs{{"d_weight", d_weight.values(), {}}};
  });
}

TEST(cast_kernels) {
  constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  for (DType from : kTypes) {
    for (DType to : kTypes) {
      for (int64_t count : {1, 7, 64, 1000, 40001}) {
        check_every_isa(std::string("cast ") + dtype_name(from) + " to " + dtype_name(to),
                        [&](std::shared_ptr<Device> device) {
                          TestMatrix source(device, 1, count, from, 1, 1, 0),
                              target(device, 1, count, to, 2, 1, 0);
                          // Large, subnormal, infinite and halfway values.
                          auto values = source.values();
                          constexpr double kSpecial[] = {
                              7e4,    -1e5,   1e-7,       3e-8,           6e-5,        INFINITY,
                              65519., 65520., 1 + 0x1p-8, 1 + 3 * 0x1p-8, 1 + 0x1p-11, -0x1p-25};
                          for (size_t i = 0; i < values.size() && i < std::size(kSpecial); ++i)
                            values[i] = rounded(kSpecial[i], from);
                          source.set(values);
                          Cast op{source.matrix().data, from, target.matrix().data, to, count};
                          ops::cast(*device, op);
                          auto results = target.values();
                          for (double& result : results) {
                            if (std::isinf(result)) result = result > 0 ? 1e300 : -1e300;
                          }
                          return Outputs{{"to", results, {}}};
                        });
      }
    }
  }
}

TEST(nan_survives_a_cast) {
  for (const std::string& isa : fast_isas()) {
    const auto device = open_cpu(isa, 1);
    for (DType to : {DType::kF32, DType::kBF16, DType::kF16}) {
      TestMatrix source(device, 1, 40, DType::kF32, 1, 1, 0), target(device, 1, 40, to, 2, 1, 0);
      source.set(std::vector<double>(40, NAN));
      ops::cast(*device, {source.matrix().data, DType::kF32, target.matrix().data, to, 40});
      for (double value : target.values()) CHECK(std::isnan(value));
    }
  }
}
