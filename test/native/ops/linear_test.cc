// The linear op with adapters: gradients of the reference, kernels against the reference, and the
// fused op against plain ones.
#include <cmath>

#include "core/error.h"
#include "ops/linear.h"
#include "ops/linear_fixture.h"
#include "support/gradient_check.h"

using namespace lowrank;
using namespace lowrank::test;
using reference::View;

namespace {

template <typename T>
View<T> as_view(std::vector<T>& values, int64_t cols) {
  return {values.data(), static_cast<int64_t>(values.size()) / cols, cols, cols};
}

std::string name_of(const char* op, const LinearCase& c, DType dtype, const StorageCase& storage) {
  return std::string(op) + " " + c.name + ", " + dtype_name(dtype) + ", " + storage.name;
}

}  // namespace

TEST(linear_gradients) {
  constexpr int64_t kTokens = 5, kIn = 4, kOut = 3, kRank = 2;
  const auto x = random_values(kTokens * kIn, 1), w = random_values(kOut * kIn, 2);
  const auto bias = random_values(kOut, 3), seed = random_values(kTokens * kOut, 4);
  const auto a = random_values(2 * kRank * kIn, 5), b = random_values(2 * kRank * kOut, 6);
  const auto residual = random_values(kTokens * kOut, 7);
  // Two adapters over parts of the rows, one with dropout; row 2 has none.
  const auto segments_of = [&](auto& as, auto& bs) {
    using P = typename std::decay_t<decltype(as)>::value_type;
    std::vector<reference::Segment<P>> segments(2);
    for (size_t i = 0; i < 2; ++i) {
      segments[i].a = as.data() + i * kRank * kIn;
      segments[i].b = bs.data() + i * kRank * kOut;
      segments[i].rank = kRank;
      segments[i].scale = 0.5 + static_cast<double>(i);
    }
    segments[0].row_end = 2;
    segments[1].row_begin = 3;
    segments[1].row_end = 5;
    segments[1].dropout = 0.4f;
    segments[1].dropout_key = 99;
    return segments;
  };
  const auto forward = [&](auto xs, auto ws, auto biases, auto as, auto bs, auto& xa) {
    using T = typename decltype(xs)::value_type;
    std::vector<T> y(kTokens * kOut), res(residual.begin(), residual.end());
    reference::linear_forward<T, T, T, T>(
        as_view(xs, kIn), as_view(y, kOut),
        [&](int64_t row, int64_t col) { return ws[static_cast<size_t>(row * kIn + col)]; },
        biases.data(), as_view(res, kOut), segments_of(as, bs), as_view(xa, kRank));
    return y;
  };
  const auto loss = [&](std::vector<Complex> xs, std::vector<Complex> ws,
                        std::vector<Complex> biases, std::vector<Complex> as,
                        std::vector<Complex> bs) {
    std::vector<Complex> xa(kTokens * kRank);
    return weighted_sum(seed, forward(xs, ws, biases, as, bs, xa));
  };

  std::vector<double> xa(kTokens * kRank);
  forward(x, w, bias, a, b, xa);
  auto x_copy = x, d_y = seed;
  std::vector<double> d_x(x.size()), d_w(w.size()), d_bias(bias.size()), d_a(a.size()),
      d_b(b.size());
  auto segments = segments_of(a, b);
  for (size_t i = 0; i < 2; ++i) {
    segments[i].d_a = d_a.data() + i * kRank * kIn;
    segments[i].d_b = d_b.data() + i * kRank * kOut;
  }
  reference::linear_backward<double, double, double>(
      as_view(x_copy, kIn), as_view(d_y, kOut), as_view(d_x, kIn), false, kIn,
      [&](int64_t row, int64_t col) { return w[static_cast<size_t>(row * kIn + col)]; }, d_w.data(),
      d_bias.data(), segments, as_view(xa, kRank));
  const auto cx = to_complex(x), cw = to_complex(w), cbias = to_complex(bias);
  const auto ca = to_complex(a), cb = to_complex(b);
  check_gradient("d_x", x, d_x, [&](const auto& v) { return loss(v, cw, cbias, ca, cb); });
  check_gradient("d_weight", w, d_w, [&](const auto& v) { return loss(cx, v, cbias, ca, cb); });
  check_gradient("d_bias", bias, d_bias, [&](const auto& v) { return loss(cx, cw, v, ca, cb); });
  check_gradient("d_a", a, d_a, [&](const auto& v) { return loss(cx, cw, cbias, v, cb); });
  check_gradient("d_b", b, d_b, [&](const auto& v) { return loss(cx, cw, cbias, ca, v); });
}

TEST(linear_forward_kernels) {
  for (const LinearCase& c : linear_cases()) {
    for (DType dtype : kActivations) {
      for (const StorageCase& storage : kStorages) {
        check_every_isa(name_of("linear_forward", c, dtype, storage),
                        [&](std::shared_ptr<Device> device) {
                          return LinearFixture(device, c, dtype, storage).forward();
                        });
      }
    }
  }
}

TEST(linear_backward_kernels) {
  for (const LinearCase& c : linear_cases()) {
    for (DType dtype : kActivations) {
      for (const StorageCase& storage : kStorages) {
        check_every_isa(name_of("linear_backward", c, dtype, storage),
                        [&](std::shared_ptr<Device> device) {
                          return LinearFixture(device, c, dtype, storage).backward();
                        });
      }
    }
  }
}

// y of the reference's fused op against three plain ones on every instruction set: xa = x A^T,
// y = x W^T + bias, y += (scale xa) B^T.
TEST(linear_fused_equals_unfused) {
  const LinearCase c{"fused", 45, 72, 51, true, Residual::kNone, false, {{0, 45, 6, 1.5f, 0}}};
  const Outputs result =
      LinearFixture(open_cpu("reference", 1), c, DType::kF32, kStorages[0]).forward();
  std::vector<std::string> isas = fast_isas();
  isas.push_back("reference");
  for (const std::string& isa : isas) {
    const auto device = open_cpu(isa, 2);
    LinearFixture fused(device, c, DType::kF32, kStorages[0]);
    const auto plain = [&](const Matrix& x, const Matrix& y, const float* weight, int64_t rows,
                           int64_t cols, const float* bias, const Matrix* residual) {
      LinearShape shape;
      shape.tokens = x.rows;
      shape.in = cols;
      shape.out = rows;
      TestWorkspace workspace(device, ops::linear_workspace_bytes(*device, shape));
      LinearForward op;
      op.x = x;
      op.y = y;
      op.weight.data = weight;
      op.weight.rows = rows;
      op.weight.cols = cols;
      op.bias = bias;
      op.residual = residual;
      op.workspace = workspace.data();
      op.workspace_bytes = workspace.bytes();
      ops::linear_forward(*device, op);
    };
    TestMatrix xa(device, c.tokens, 6, DType::kF32, 1, 0),
        y(device, c.tokens, c.out, DType::kF32, 2);
    plain(fused.x.matrix(), xa.matrix(), fused.a[0].data(), 6, c.in, nullptr, nullptr);
    auto scaled = xa.values();
    for (double& value : scaled) value *= 1.5;
    xa.set(scaled);
    plain(fused.x.matrix(), y.matrix(), static_cast<const float*>(fused.weight.weight().data),
          c.out, c.in, fused.bias.data(), nullptr);
    plain(xa.matrix(), y.matrix(), fused.b[0].data(), c.out, 6, nullptr, &y.matrix());
    compare("linear fused, " + isa, {"y", y.values(), {}}, result[0]);
  }
}

TEST(linear_checks_its_arguments) {
  const auto device = open_cpu("reference", 1);
  LinearCase c{"checks", 4, 8, 6, false, Residual::kNone, false, {{0, 4, 2, 1, 0}}};
  LinearFixture fixture(device, c, DType::kF32, kStorages[0]);
  LinearForward good;
  good.x = fixture.x.matrix();
  good.y = fixture.y.matrix();
  good.weight = fixture.weight.weight();
  good.segments = fixture.segments.data();
  good.segment_count = 1;
  good.xa = fixture.xa.matrix();
  ops::linear_forward(*device, good);
  const auto fails = [&](const char* text, const auto& change) {
    LinearForward op = good;
    change(op);
    CHECK_ERROR(ops::linear_forward(*device, op), ErrorCode::kInvalidArgument, text);
  };
  fails("[linear_forward] x is [4, 7], expected [4, 8]", [](auto& op) { op.x.cols = 7; });
  fails("y is null", [](auto& op) { op.y.data = nullptr; });
  fails("y overlaps x", [](auto& op) { op.y.data = op.x.data; });
  fails("stride", [](auto& op) { op.x.stride = 7; });
  fails("xa has fewer columns", [](auto& op) { op.xa.cols = 1; });
  fails("weight is nf4 and lacks absmax", [](auto& op) { op.weight.storage = Storage::kNF4; });
  fails("weight is int8 and lacks", [](auto& op) { op.weight.storage = Storage::kInt8; });
  fails("y is bf16 while x is f32", [](auto& op) { op.y.dtype = DType::kBF16; });
  fails("xa is bf16, expected f32", [](auto& op) { op.xa.dtype = DType::kBF16; });
  LoraSegment segments[2] = {fixture.segments[0], fixture.segments[0]};
  fails("segments overlap", [&](auto& op) {
    op.segments = segments;
    op.segment_count = 2;
  });
  segments[0].row_end = 5;
  fails("a segment ends behind", [&](auto& op) { op.segments = segments; });
  segments[0].row_end = 4;
  segments[0].dropout = 1;
  fails("dropout", [&](auto& op) { op.segments = segments; });
}
