#include "ops/linear_fixture.h"

#include <algorithm>
#include <cmath>

#include "ops/linear.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

using reference::View;

View<double> as_view(std::vector<double>& values, int64_t cols) {
  return {values.data(), static_cast<int64_t>(values.size()) / cols, cols, cols};
}

std::vector<double> magnitudes_of(std::vector<double> values) {
  for (double& value : values) value = std::abs(value);
  return values;
}

int64_t max_rank(const LinearCase& c) {
  int64_t rank = 0;
  for (const SegmentCase& segment : c.segments) rank = std::max<int64_t>(rank, segment.rank);
  return rank;
}

}  // namespace

LinearFixture::LinearFixture(std::shared_ptr<Device> opened, const LinearCase& linear_case,
                             DType activation, const StorageCase& stored)
    : device(opened),
      c(linear_case),
      dtype(activation),
      storage(stored.storage),
      xa_cols(max_rank(linear_case) + 2),
      x(device, c.tokens, c.in, dtype, 1),
      y(device, c.tokens, c.out, c.y_f32 ? DType::kF32 : dtype, 2),
      residual(device, c.tokens, c.out, c.y_f32 ? DType::kF32 : dtype, 3),
      xa(device, c.tokens, xa_cols, dtype, 4),
      d_y(device, c.tokens, c.out, dtype, 5),
      d_x(device, c.tokens, c.in, dtype, 6),
      weight(device, c.out, c.in, stored.storage, stored.double_quant, 7, 0.3),
      bias(device, c.out, 8),
      d_weight(device, c.out * c.in, 9),
      d_bias(device, c.out, 10) {
  uint64_t key = 20;
  for (const SegmentCase& s : c.segments) {
    a.emplace_back(device, s.rank * c.in, key++, 0.2);
    b.emplace_back(device, c.out * s.rank, key++, 0.2);
    d_a.emplace_back(device, s.rank * c.in, key++);
    d_b.emplace_back(device, c.out * s.rank, key++);
    LoraSegment segment;
    segment.row_begin = s.row_begin;
    segment.row_end = s.row_end;
    segment.a = a.back().data();
    segment.b = b.back().data();
    segment.d_a = s.trained ? d_a.back().data() : nullptr;
    segment.d_b = s.trained ? d_b.back().data() : nullptr;
    segment.rank = s.rank;
    segment.scale = s.scale;
    segment.dropout = s.dropout;
    segment.dropout_key = key++;
    segments.push_back(segment);
  }
}

std::vector<reference::Segment<double>> LinearFixture::host_segments(
    std::vector<std::vector<double>>& storage_of_a,
    std::vector<std::vector<double>>& storage_of_b) const {
  std::vector<reference::Segment<double>> result;
  for (size_t i = 0; i < segments.size(); ++i) {
    storage_of_a.push_back(magnitudes_of(a[i].values()));
    storage_of_b.push_back(magnitudes_of(b[i].values()));
  }
  for (size_t i = 0; i < segments.size(); ++i) {
    const LoraSegment& s = segments[i];
    result.push_back({s.row_begin, s.row_end, storage_of_a[i].data(), storage_of_b[i].data(),
                      nullptr, nullptr, s.rank, static_cast<double>(s.scale), s.dropout,
                      s.dropout_key});
  }
  return result;
}

LinearFixture::Magnitudes LinearFixture::forward_magnitudes() const {
  std::vector<std::vector<double>> as, bs;
  const auto adapters = host_segments(as, bs);
  auto xs = magnitudes_of(x.values()), ws = magnitudes_of(weight.values());
  auto biases = magnitudes_of(bias.values());
  auto residuals = magnitudes_of((c.residual == Residual::kOutput ? y : residual).values());
  const auto get = [&](int64_t row, int64_t col) {
    return ws[static_cast<size_t>(row * c.in + col)];
  };
  const auto residual_view =
      c.residual == Residual::kNone ? View<double>{} : as_view(residuals, c.out);
  Magnitudes m;
  m.base.resize(static_cast<size_t>(c.tokens * c.out));
  m.total = m.base;
  m.xa.resize(static_cast<size_t>(c.tokens * xa_cols));
  reference::linear_forward<double, double, double, double>(
      as_view(xs, c.in), as_view(m.base, c.out), get, c.bias ? biases.data() : nullptr,
      residual_view, {}, as_view(m.xa, xa_cols));
  reference::linear_forward<double, double, double, double>(
      as_view(xs, c.in), as_view(m.total, c.out), get, c.bias ? biases.data() : nullptr,
      residual_view, adapters, as_view(m.xa, xa_cols));
  return m;
}

Outputs LinearFixture::forward() {
  Magnitudes m;
  const bool bounded = gives_bounds(*device);
  if (bounded) m = forward_magnitudes();
  LinearShape shape;
  shape.tokens = c.tokens;
  shape.in = c.in;
  shape.out = c.out;
  shape.max_rank = static_cast<int32_t>(max_rank(c));
  shape.segment_count = static_cast<int32_t>(segments.size());
  for (const SegmentCase& s : c.segments) shape.dropout = shape.dropout || s.dropout > 0;
  shape.activation = dtype;
  shape.storage = storage;
  TestWorkspace workspace(device, ops::linear_workspace_bytes(*device, shape));
  LinearForward op;
  op.x = x.matrix();
  op.y = y.matrix();
  op.weight = weight.weight();
  op.bias = c.bias ? bias.data() : nullptr;
  if (c.residual == Residual::kSeparate) op.residual = &residual.matrix();
  if (c.residual == Residual::kOutput) op.residual = &op.y;
  op.segments = segments.data();
  op.segment_count = static_cast<int32_t>(segments.size());
  op.xa = xa.matrix();
  op.workspace = workspace.data();
  op.workspace_bytes = workspace.bytes();
  ops::linear_forward(*device, op);
  CHECK(y.padding_intact());
  CHECK(xa.padding_intact());

  Output result{"y", y.values(), {}};
  for (size_t i = 0; bounded && i < result.values.size(); ++i) {
    // An adapter's term meets roundings of x / (1 - p), A, scale * B, and of xa on both sides.
    result.bounds.push_back(
        m.base[i] * (sum_bound(c.in) + operand_bound(dtype, weight_roundings())) +
        (m.total[i] - m.base[i]) * (sum_bound(c.in + max_rank(c), 10) + operand_bound(dtype, 6)) +
        2 * unit_roundoff(y.matrix().dtype) * std::abs(result.values[i]));
  }
  Outputs outputs{result};
  const auto xas = xa.values();
  for (const SegmentCase& s : c.segments) {
    Output part{"xa", {}, {}};
    for (int64_t t = s.row_begin; t < s.row_end; ++t) {
      for (int64_t r = 0; r < s.rank; ++r) {
        const auto at = static_cast<size_t>(t * xa_cols + r);
        part.values.push_back(xas[at]);
        if (bounded)
          part.bounds.push_back(m.xa[at] * (sum_bound(c.in) + operand_bound(dtype, 2)) +
                                2 * unit_roundoff(dtype) * std::abs(xas[at]));
      }
    }
    outputs.push_back(part);
  }
  return outputs;
}

Outputs LinearFixture::backward() {
  std::vector<std::vector<double>> as, bs, d_as, d_bs;
  auto adapters = host_segments(as, bs);
  auto xs = magnitudes_of(x.values()), dys = magnitudes_of(d_y.values());
  auto xas = magnitudes_of(xa.values()), ws = magnitudes_of(weight.values());
  auto base = magnitudes_of(d_x.values()), d_ws = magnitudes_of(d_weight.values());
  auto total = base, d_biases = magnitudes_of(d_bias.values());
  for (size_t i = 0; i < adapters.size(); ++i) {
    d_as.push_back(magnitudes_of(d_a[i].values()));
    d_bs.push_back(magnitudes_of(d_b[i].values()));
  }
  for (size_t i = 0; i < adapters.size(); ++i) {
    adapters[i].d_a = d_as[i].data();
    adapters[i].d_b = d_bs[i].data();
  }
  const auto get = [&](int64_t row, int64_t col) {
    return ws[static_cast<size_t>(row * c.in + col)];
  };
  const auto run = [&](std::vector<double>& d_input, bool with_adapters) {
    reference::linear_backward<double, double, double>(
        as_view(xs, c.in), as_view(dys, c.out), as_view(d_input, c.in), c.accumulate_d_x, c.in, get,
        with_adapters ? d_ws.data() : nullptr, with_adapters ? d_biases.data() : nullptr,
        with_adapters ? adapters : std::vector<reference::Segment<double>>{},
        as_view(xas, xa_cols));
  };
  if (gives_bounds(*device)) {
    run(base, false);
    run(total, true);
  }

  LinearShape shape;
  shape.tokens = c.tokens;
  shape.in = c.in;
  shape.out = c.out;
  shape.max_rank = static_cast<int32_t>(max_rank(c));
  shape.segment_count = static_cast<int32_t>(segments.size());
  for (const SegmentCase& s : c.segments) shape.dropout = shape.dropout || s.dropout > 0;
  shape.backward = true;
  shape.activation = dtype;
  shape.storage = storage;
  TestWorkspace workspace(device, ops::linear_workspace_bytes(*device, shape));
  LinearBackward op;
  op.x = x.matrix();
  op.d_y = d_y.matrix();
  if (c.d_x) op.d_x = d_x.matrix();
  op.accumulate_d_x = c.accumulate_d_x;
  op.weight = weight.weight();
  op.d_weight = c.d_weight ? d_weight.data() : nullptr;
  op.d_bias = c.d_bias ? d_bias.data() : nullptr;
  op.segments = segments.data();
  op.segment_count = static_cast<int32_t>(segments.size());
  op.xa = xa.matrix();
  op.workspace = workspace.data();
  op.workspace_bytes = workspace.bytes();
  ops::linear_backward(*device, op);
  CHECK(d_x.padding_intact());
  CHECK(d_y.padding_intact());

  const auto output = [](const char* name, std::vector<double> values,
                         const std::vector<double>& scale, double relative) {
    Output result{name, std::move(values), {}};
    for (double s : scale) result.bounds.push_back(s * relative);
    return result;
  };
  Output d_input{"d_x", d_x.values(), {}};
  for (size_t i = 0; i < d_input.values.size() && c.d_x; ++i) {
    // An adapter's term meets roundings of B, d_y B, the scale, A and the dropout factor.
    d_input.bounds.push_back(
        base[i] * (sum_bound(c.out) + operand_bound(dtype, weight_roundings())) +
        (total[i] - base[i]) * (sum_bound(c.out + max_rank(c), 10) + operand_bound(dtype, 6)) +
        2 * unit_roundoff(dtype) * std::abs(d_input.values[i]));
  }
  // Gradients that weren't asked for keep their bits: no bounds.
  Outputs outputs{d_input,
                  output("d_weight", d_weight.values(), c.d_weight ? d_ws : std::vector<double>{},
                         sum_bound(c.tokens)),
                  output("d_bias", d_bias.values(), c.d_bias ? d_biases : std::vector<double>{},
                         sum_bound(c.tokens))};
  for (size_t i = 0; i < segments.size(); ++i) {
    const bool trained = c.segments[i].trained;
    outputs.push_back(output("d_a", d_a[i].values(), trained ? d_as[i] : std::vector<double>{},
                             sum_bound(c.tokens + c.out, 10) + operand_bound(dtype, 6)));
    outputs.push_back(output("d_b", d_b[i].values(), trained ? d_bs[i] : std::vector<double>{},
                             sum_bound(c.tokens, 6) + operand_bound(dtype, 2)));
  }
  return outputs;
}

}  // namespace lowrank::test
