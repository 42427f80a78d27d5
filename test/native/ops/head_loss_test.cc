// The fused head and cross-entropy: gradients of the reference, kernels against the reference, and
// fused against the logits of a linear op.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "cpu/reference/head_loss.h"
#include "ops/head_loss.h"
#include "ops/linear.h"
#include "support/gradient_check.h"
#include "support/isa_check.h"
#include "support/op_cases.h"
#include "support/test_array.h"
#include "support/tolerance.h"

using namespace lowrank;
using namespace lowrank::test;
using reference::View;

namespace {

template <typename T>
View<T> as_view(std::vector<T>& values, int64_t cols) {
  return {values.data(), static_cast<int64_t>(values.size()) / cols, cols, cols};
}

struct HeadLossFixture {
  HeadLossFixture(std::shared_ptr<Device> opened, const HeadLossCase& head_case, DType activation,
                  const StorageCase& storage)
      : device(opened),
        c(head_case),
        dtype(activation),
        count(c.rows.size()),
        roundings(storage.storage == Storage::kBF16 ? 0 : 1),
        x(device, c.tokens, c.hidden, dtype, 1),
        d_x(device, c.tokens, c.hidden, dtype, 2),
        weight(device, c.vocabulary, c.hidden, storage.storage, storage.double_quant, 3, 0.3),
        bias(device, c.vocabulary, 4),
        d_weight(device, c.vocabulary * c.hidden, 5),
        d_bias(device, c.vocabulary, 6),
        weights(device, static_cast<int64_t>(count), 7, 0.05, 0.1),
        logprob(device, static_cast<int64_t>(count), 8),
        rows(device, c.rows),
        targets(device, target_list()),
        correct(device, std::max<size_t>(1, count)) {}

  std::vector<int32_t> target_list() const {
    std::vector<int32_t> list;
    for (size_t i = 0; i < c.rows.size(); ++i)
      list.push_back(static_cast<int32_t>(static_cast<int64_t>(i * i * 31 + 7) % c.vocabulary));
    if (!list.empty()) list.back() = static_cast<int32_t>(c.vocabulary - 1);
    return list;
  }

  Outputs run() {
    const auto before_w = d_weight.values(), before_bias = d_bias.values();
    HeadLossShape shape;
    shape.labelled = static_cast<int64_t>(count);
    shape.hidden = c.hidden;
    shape.vocabulary = c.vocabulary;
    shape.backward = c.d_x;
    shape.weight_gradient = c.d_weight;
    shape.activation = dtype;
    shape.storage = weight.weight().storage;
    TestWorkspace workspace(device, ops::head_loss_workspace_bytes(*device, shape));
    HeadLoss op;
    op.x = x.matrix();
    if (c.d_x) op.d_x = d_x.matrix();
    op.rows = rows.data();
    op.targets = targets.data();
    op.weights = weights.data();
    op.count = static_cast<int32_t>(count);
    op.weight = weight.weight();
    op.bias = c.bias ? bias.data() : nullptr;
    op.d_weight = c.d_weight ? d_weight.data() : nullptr;
    op.d_bias = c.d_weight && c.bias ? d_bias.data() : nullptr;
    op.logprob = logprob.data();
    op.correct = correct.as<uint8_t>();
    op.workspace = workspace.data();
    op.workspace_bytes = workspace.bytes();
    ops::head_loss(*device, op);
    CHECK(d_x.padding_intact());
    return outputs(before_w, before_bias);
  }

  // Every logit on the host in f64, and the bound of its error in `error`.
  std::vector<double> logits_of(size_t n, double* error) const {
    const auto xs = x.values(), &ws = weight.values(), biases = bias.values();
    std::vector<double> logits;
    double largest = 0;
    for (int64_t v = 0; v < c.vocabulary; ++v) {
      double sum = c.bias ? biases[static_cast<size_t>(v)] : 0, size = std::abs(sum);
      for (int64_t i = 0; i < c.hidden; ++i) {
        const double product = xs[static_cast<size_t>(c.rows[n] * c.hidden + i)] *
                               ws[static_cast<size_t>(v * c.hidden + i)];
        sum += product;
        size += std::abs(product);
      }
      logits.push_back(sum);
      largest = std::max(largest, size);
    }
    *error = largest * (sum_bound(c.hidden) + operand_bound(dtype, roundings));
    return logits;
  }

  Outputs outputs(const std::vector<double>& before_w, const std::vector<double>& before_bias) {
    const auto hidden = static_cast<size_t>(c.hidden), words = static_cast<size_t>(c.vocabulary);
    const auto xs = x.values(), ws = weights.values(), &head = weight.values();
    const auto target = target_list();
    Output logprobs{"logprob", logprob.values(), {}}, hits{"correct", {}, {}};
    Output d_input{"d_x", d_x.values(), std::vector<double>(xs.size())};
    Output d_head{"d_weight", d_weight.values(), {}}, d_biases{"d_bias", d_bias.values(), {}};
    std::vector<double> head_bound(before_w.size()), bias_bound(before_bias.size());
    std::vector<uint8_t> flags(std::max<size_t>(1, count));
    correct.download(flags.data(), flags.size());
    hits.values.assign(flags.begin(), flags.begin() + static_cast<std::ptrdiff_t>(count));
    if (!gives_bounds(*device)) return {logprobs, hits, d_input, d_head, d_biases};
    for (size_t n = 0; n < count; ++n) {
      double error = 0;
      const auto logits = logits_of(n, &error);
      const double top = *std::max_element(logits.begin(), logits.end());
      double sum = 0;
      for (double logit : logits) sum += std::exp(logit - top);
      const double lse = top + std::log(sum), label = logits[static_cast<size_t>(target[n])];
      const double softmax = 2 * error + sum_bound(c.vocabulary, 8) + 8 * kU32 * std::abs(lse);
      logprobs.bounds.push_back(softmax + 4 * kU32 * (std::abs(lse) + std::abs(label)));
      // A tie within the error may fall either way.
      hits.bounds.push_back(std::abs(label - top) > 2 * error || label == top ? 0 : 1);
      for (size_t v = 0; v < words; ++v) {
        const bool is_target = static_cast<size_t>(target[n]) == v;
        const double p = std::exp(logits[v] - lse);
        // d_logit's own error, and its rounding before a matrix unit multiplies it.
        const double d_error =
            std::abs(ws[n]) * (p * softmax + 4 * kU32 +
                               (std::abs((is_target ? 1 : 0) - p)) *
                                   (operand_bound(dtype, 1 + roundings) + sum_bound(c.vocabulary)));
        bias_bound[v] += d_error + kU32 * std::abs(before_bias[v]);
        for (size_t i = 0; i < hidden; ++i) {
          const auto row = static_cast<size_t>(c.rows[n]) * hidden;
          d_input.bounds[row + i] += d_error * std::abs(head[v * hidden + i]);
          head_bound[v * hidden + i] +=
              d_error * std::abs(xs[row + i]) + kU32 * std::abs(before_w[v * hidden + i]);
        }
      }
    }
    for (size_t i = 0; i < d_input.values.size(); ++i)
      d_input.bounds[i] += 2 * unit_roundoff(dtype) * std::abs(d_input.values[i]);
    if (!c.d_x) d_input.bounds.clear();
    // Labels may be summed in any fixed order: the values themselves add up to a rounding each.
    for (size_t i = 0; i < head_bound.size(); ++i)
      head_bound[i] += sum_bound(static_cast<int64_t>(count)) * std::abs(d_head.values[i]);
    for (size_t i = 0; i < bias_bound.size(); ++i)
      bias_bound[i] += sum_bound(static_cast<int64_t>(count)) * std::abs(d_biases.values[i]);
    if (c.d_weight) d_head.bounds = head_bound;
    if (c.d_weight && c.bias) d_biases.bounds = bias_bound;
    return {logprobs, hits, d_input, d_head, d_biases};
  }

  std::shared_ptr<Device> device;
  HeadLossCase c;
  DType dtype;
  size_t count;
  int64_t roundings;
  TestMatrix x, d_x;
  TestWeight weight;
  TestVector bias, d_weight, d_bias, weights, logprob;
  TestIndices rows, targets;
  Buffer correct;
};

}  // namespace

TEST(head_loss_gradients) {
  constexpr int64_t kTokens = 4, kHidden = 3, kWords = 5;
  const auto x = random_values(kTokens * kHidden, 1), w = random_values(kWords * kHidden, 2);
  const auto bias = random_values(kWords, 3), weights = random_values(3, 4);
  const int32_t rows[] = {0, 1, 3}, targets[] = {4, 0, 2};
  // The loss whose gradient d_x holds: -sum(weights * logprob).
  const auto loss = [&](std::vector<Complex> xs, std::vector<Complex> ws,
                        std::vector<Complex> biases) {
    std::vector<Complex> logprob(3), weight_values = to_complex(weights);
    reference::head_loss<Complex, Complex, Complex>(
        as_view(xs, kHidden), View<Complex>{}, rows, targets, weight_values.data(), 3,
        [&](int64_t row, int64_t col) { return ws[static_cast<size_t>(row * kHidden + col)]; },
        kWords, biases.data(), {nullptr, nullptr, logprob.data(), nullptr});
    return -weighted_sum(weights, logprob);
  };
  auto x_copy = x;
  std::vector<double> d_x(x.size(), 7), d_w(w.size()), d_bias(bias.size()), logprob(3);
  uint8_t correct[3];
  reference::head_loss<double, double, double>(
      as_view(x_copy, kHidden), as_view(d_x, kHidden), rows, targets, weights.data(), 3,
      [&](int64_t row, int64_t col) { return w[static_cast<size_t>(row * kHidden + col)]; }, kWords,
      bias.data(), {d_w.data(), d_bias.data(), logprob.data(), correct});
  const auto cx = to_complex(x), cw = to_complex(w), cb = to_complex(bias);
  check_gradient("d_x", x, d_x, [&](const auto& moved) { return loss(moved, cw, cb); });
  check_gradient("d_weight", w, d_w, [&](const auto& moved) { return loss(cx, moved, cb); });
  check_gradient("d_bias", bias, d_bias, [&](const auto& moved) { return loss(cx, cw, moved); });
  for (int64_t i = 0; i < kHidden; ++i) CHECK_EQ(d_x[static_cast<size_t>(2 * kHidden + i)], 0.0);
}

TEST(head_loss_kernels) {
  for (const HeadLossCase& c : head_loss_cases()) {
    for (DType dtype : kActivations) {
      for (const StorageCase& storage : kStorages) {
        check_every_isa("head_loss " + c.name + ", " + dtype_name(dtype) + ", " + storage.name,
                        [&](std::shared_ptr<Device> device) {
                          return HeadLossFixture(device, c, dtype, storage).run();
                        });
      }
    }
  }
}

// The reference's fused op against logits made by the linear op of every instruction set and a
// softmax in f64.
TEST(head_loss_fused_equals_unfused) {
  const HeadLossCase c{"fused", 10, 48, 77, {1, 2, 8}, true, false, true};
  const Outputs result =
      HeadLossFixture(open_cpu("reference", 1), c, DType::kF32, kStorages[0]).run();
  std::vector<std::string> isas = fast_isas();
  isas.push_back("reference");
  for (const std::string& isa : isas) {
    HeadLossFixture fused(open_cpu(isa, 2), c, DType::kF32, kStorages[0]);
    TestMatrix logits(fused.device, c.tokens, c.vocabulary, DType::kF32, 1);
    LinearShape shape;
    shape.tokens = c.tokens;
    shape.in = c.hidden;
    shape.out = c.vocabulary;
    TestWorkspace workspace(fused.device, ops::linear_workspace_bytes(*fused.device, shape));
    LinearForward op;
    op.x = fused.x.matrix();
    op.y = logits.matrix();
    op.weight = fused.weight.weight();
    op.bias = fused.bias.data();
    op.workspace = workspace.data();
    op.workspace_bytes = workspace.bytes();
    ops::linear_forward(*fused.device, op);
    const auto values = logits.values();
    Output logprob{"logprob", {}, {}}, hits{"correct", {}, {}};
    const auto targets = fused.target_list();
    for (size_t n = 0; n < 3; ++n) {
      const double* row = &values[static_cast<size_t>(c.rows[n] * c.vocabulary)];
      double sum = 0, top = -INFINITY;
      for (int64_t v = 0; v < c.vocabulary; ++v) sum += std::exp(row[v]);
      for (int64_t v = 0; v < c.vocabulary; ++v) top = std::max(top, row[v]);
      logprob.values.push_back(row[targets[n]] - std::log(sum));
      hits.values.push_back(row[targets[n]] >= top);
    }
    compare("head_loss fused, " + isa, logprob, result[0]);
    compare("head_loss fused, " + isa, hits, result[1]);
  }
}

TEST(head_loss_counts_a_correct_target) {
  for (const std::string& isa :
       {std::string("reference"), fast_isas().empty() ? "reference" : fast_isas().back()}) {
    const auto device = open_cpu(isa, 1);
    HeadLossCase c{"correct", 3, 4, 6, {0, 1, 2}, false, false};
    HeadLossFixture fixture(device, c, DType::kF32, kStorages[0]);
    // Row n of x points along axis n; word v has weight v on axis 0, -v on axis 1 and 0 on axis 2.
    fixture.x.set({1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0});
    std::vector<float> head(24);
    for (size_t v = 0; v < 6; ++v) {
      head[v * 4] = static_cast<float>(v);
      head[v * 4 + 1] = -static_cast<float>(v);
    }
    Buffer buffer(device, 96);
    buffer.upload(head.data(), 96);
    TestIndices targets(device, {5, 5, 3});
    HeadLossShape shape{3, 4, 6, false, false, DType::kF32, Storage::kF32};
    TestWorkspace workspace(device, ops::head_loss_workspace_bytes(*device, shape));
    HeadLoss op;
    op.x = fixture.x.matrix();
    op.rows = fixture.rows.data();
    op.targets = targets.data();
    op.count = 3;
    op.weight.data = buffer.data();
    op.weight.rows = 6;
    op.weight.cols = 4;
    op.logprob = fixture.logprob.data();
    op.correct = fixture.correct.as<uint8_t>();
    op.workspace = workspace.data();
    op.workspace_bytes = workspace.bytes();
    ops::head_loss(*device, op);
    uint8_t correct[3];
    fixture.correct.download(correct, sizeof correct);
    CHECK_EQ(int{correct[0]}, 1);
    CHECK_EQ(int{correct[1]}, 0);
    CHECK_EQ(int{correct[2]}, 1);  // every logit is the same: none is larger
    CHECK_NEAR(fixture.logprob.values()[2], -std::log(6.0), 1e-6);
    op.targets = nullptr;
    CHECK_ERROR(ops::head_loss(*device, op), ErrorCode::kInvalidArgument, "targets is null");
    if (!device->backend().host_memory) continue;  // indices there aren't checked
    const int32_t outside[] = {0, 1, 6}, unsorted[] = {0, 2, 1};
    op.targets = outside;
    CHECK_ERROR(ops::head_loss(*device, op), ErrorCode::kInvalidArgument, "targets[2] is 6");
    op.targets = unsorted;
    op.rows = unsorted;
    CHECK_ERROR(ops::head_loss(*device, op), ErrorCode::kInvalidArgument, "rows must ascend");
  }
}

TEST(head_loss_of_logits_that_keep_growing) {
  // Each strip of the vocabulary has logits far above the last one's, so sums so far are rescaled.
  constexpr int64_t kTokens = 3, kHidden = 4, kWords = 1500;
  std::vector<float> x(kTokens * kHidden), w(kWords * kHidden), weights{0.5f, -0.25f, 1};
  for (size_t i = 0; i < x.size(); ++i) x[i] = 0.5f + 0.125f * static_cast<float>(i % 5);
  for (size_t i = 0; i < w.size(); ++i)
    w[i] = 0.02f * static_cast<float>(i / kHidden) + 0.25f * static_cast<float>(i % 3);
  const std::vector<int32_t> rows{0, 1, 2}, targets{1499, 3, 700};
  std::vector<float> expected;
  std::vector<std::string> isas = fast_isas();
  isas.insert(isas.begin(), "reference");
  for (const std::string& isa : isas) {
    const auto device = open_cpu(isa, 1);
    const TestArray<float> xs(device, x), ws(device, w), d_xs(device, std::vector<float>(x.size()));
    const TestArray<float> scales(device, weights);
    const TestArray<float> logprobs(device, std::vector<float>(rows.size()));
    const TestIndices row_list(device, rows), target_list(device, targets);
    HeadLoss op;
    op.x = {xs.data(), DType::kF32, kTokens, kHidden, kHidden};
    op.d_x = {d_xs.data(), DType::kF32, kTokens, kHidden, kHidden};
    op.rows = row_list.data(), op.targets = target_list.data(), op.weights = scales.data();
    op.count = 3, op.logprob = logprobs.data();
    op.weight.data = ws.data(), op.weight.rows = kWords, op.weight.cols = kHidden;
    HeadLossShape shape{3, kHidden, kWords, true, false, DType::kF32, Storage::kF32};
    TestWorkspace workspace(device, ops::head_loss_workspace_bytes(*device, shape));
    op.workspace = workspace.data(), op.workspace_bytes = workspace.bytes();
    ops::head_loss(*device, op);
    auto d_x = d_xs.values(), logprob = logprobs.values();
    d_x.insert(d_x.end(), logprob.begin(), logprob.end());
    if (expected.empty()) expected = d_x;
    // Logits reach 100, so a rounding of one moves the rest by 100 u times the weight's 30.
    for (size_t i = 0; i < d_x.size(); ++i) CHECK_NEAR(d_x[i], expected[i], 100 * 30 * kU32 * 8);
  }
}
