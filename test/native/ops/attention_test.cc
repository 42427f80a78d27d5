// Causal attention over packed documents: gradients of the reference, kernels against the
// reference.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "cpu/reference/attention.h"
#include "ops/attention.h"
#include "support/gradient_check.h"
#include "support/isa_check.h"
#include "support/op_cases.h"
#include "support/tolerance.h"

using namespace lowrank;
using namespace lowrank::test;
using reference::View;

namespace {

template <typename T>
View<T> as_view(std::vector<T>& values, int64_t cols) {
  return {values.data(), static_cast<int64_t>(values.size()) / cols, cols, cols};
}

std::vector<int32_t> offsets_of(const std::vector<int32_t>& lengths) {
  std::vector<int32_t> offsets{0};
  for (int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

// Bounds from the magnitudes of every term. `probability` is the relative error of p = exp(s -
// lse): the score's error (a sum of head_dim products, times 2 for score and normalizer), exp, and
// with bf16 activations the rounding of p before a matrix unit multiplies it.
struct AttentionBounds {
  std::vector<double> out, lse, d_q, d_k, d_v;
};

AttentionBounds bounds_of(const reference::AttentionLayout& layout, DType dtype,
                          std::vector<double> q, std::vector<double> k, std::vector<double> v,
                          std::vector<double> out, std::vector<double> d_out,
                          const std::vector<double>& lse) {
  const int64_t dim = layout.head_dim, q_cols = layout.heads * dim, kv_cols = layout.kv_heads * dim;
  const auto tokens = static_cast<int64_t>(q.size()) / q_cols;
  AttentionBounds bounds;
  bounds.out.resize(q.size());
  bounds.d_q.resize(q.size());
  bounds.d_k.resize(k.size());
  bounds.d_v.resize(k.size());
  bounds.lse.resize(lse.size());
  for (int64_t d = 0; d < layout.documents; ++d) {
    for (int64_t head = 0; head < layout.heads; ++head) {
      const int64_t kv = head / (layout.heads / layout.kv_heads) * dim;
      for (int64_t t = layout.q_offsets[d]; t < layout.q_offsets[d + 1]; ++t) {
        const auto keys = reference::visible_keys(layout, d, t);
        const double* query = &q[static_cast<size_t>(t * q_cols + head * dim)];
        const double* gradient = &d_out[static_cast<size_t>(t * q_cols + head * dim)];
        const double* result = &out[static_cast<size_t>(t * q_cols + head * dim)];
        double largest = 0, delta = 0;
        for (int64_t j = keys.begin; j < keys.end; ++j) {
          double size = 0;
          for (int64_t i = 0; i < dim; ++i)
            size += std::abs(query[i] * k[static_cast<size_t>(j * kv_cols + kv + i)]);
          largest = std::max(largest, size * layout.scale);
        }
        for (int64_t i = 0; i < dim; ++i) delta += std::abs(gradient[i] * result[i]);
        const double score_error = largest * sum_bound(dim);
        const double log_sum = lse[static_cast<size_t>(head * tokens + t)];
        const double probability = 2 * score_error + sum_bound(keys.end - keys.begin, 8) +
                                   4 * kU32 * std::abs(log_sum) + operand_bound(dtype, 1);
        bounds.lse[static_cast<size_t>(head * tokens + t)] =
            score_error + sum_bound(keys.end - keys.begin, 8) + 4 * kU32 * (1 + std::abs(log_sum));
        for (int64_t j = keys.begin; j < keys.end; ++j) {
          const auto row = static_cast<size_t>(j * kv_cols + kv);
          double score = 0, d_p = 0;
          for (int64_t i = 0; i < dim; ++i) {
            score += query[i] * k[row + static_cast<size_t>(i)];
            d_p += std::abs(gradient[i] * v[row + static_cast<size_t>(i)]);
          }
          const double p = std::exp(layout.scale * score - log_sum);
          // dS is rounded once more than p before it is multiplied.
          const double d_s = layout.scale * p * (d_p + delta) *
                             (probability + sum_bound(2 * dim) + operand_bound(dtype, 1));
          for (int64_t i = 0; i < dim; ++i) {
            const auto at = static_cast<size_t>(t * q_cols + head * dim + i);
            const auto key = row + static_cast<size_t>(i);
            bounds.out[at] += p * std::abs(v[key]) * probability;
            bounds.d_q[at] += d_s * std::abs(k[key]);
            bounds.d_k[key] += d_s * std::abs(query[i]) * (1 + sum_bound(tokens * layout.heads));
            bounds.d_v[key] +=
                p * std::abs(gradient[i]) * (probability + sum_bound(tokens * layout.heads));
          }
        }
      }
    }
  }
  return bounds;
}

void add_output_rounding(std::vector<double>& bounds, const std::vector<double>& values,
                         DType dtype) {
  for (size_t i = 0; i < bounds.size(); ++i)
    bounds[i] += 2 * unit_roundoff(dtype) * std::abs(values[i]) + 1e-37;
}

}  // namespace

TEST(attention_gradients) {
  // Two documents, three query heads on one key head, a window; the key side longer in the second.
  constexpr int64_t kDim = 4, kHeads = 3;
  const std::vector<int32_t> q_offsets{0, 4, 6}, k_offsets{0, 4, 9};
  reference::AttentionLayout layout{q_offsets.data(), k_offsets.data(), 2, kHeads, 1, kDim, 3, 0.4};
  const auto q = random_values(6 * kHeads * kDim, 1), k = random_values(9 * kDim, 2);
  const auto v = random_values(9 * kDim, 3), seed = random_values(6 * kHeads * kDim, 4);
  const auto loss = [&](std::vector<Complex> qs, std::vector<Complex> ks, std::vector<Complex> vs) {
    std::vector<Complex> out(qs.size());
    reference::attention_forward<Complex, Complex, Complex>(layout, as_view(qs, kHeads * kDim),
                                                            as_view(ks, kDim), as_view(vs, kDim),
                                                            as_view(out, kHeads * kDim), nullptr);
    return weighted_sum(seed, out);
  };
  auto q1 = q, k1 = k, v1 = v, d_out = seed;
  std::vector<double> out(q.size()), lse(kHeads * 6), d_k(k.size()), d_v(v.size());
  reference::attention_forward<double, double, double>(layout, as_view(q1, kHeads * kDim),
                                                       as_view(k1, kDim), as_view(v1, kDim),
                                                       as_view(out, kHeads * kDim), lse.data());
  // d_q in d_out's place.
  reference::attention_backward<double, double, double>(
      layout, as_view(q1, kHeads * kDim), as_view(k1, kDim), as_view(v1, kDim),
      as_view(out, kHeads * kDim), lse.data(), as_view(d_out, kHeads * kDim),
      as_view(d_out, kHeads * kDim), as_view(d_k, kDim), as_view(d_v, kDim));
  const auto cq = to_complex(q), ck = to_complex(k), cv = to_complex(v);
  check_gradient("d_q", q, d_out, [&](const auto& moved) { return loss(moved, ck, cv); });
  check_gradient("d_k", k, d_k, [&](const auto& moved) { return loss(cq, moved, cv); });
  check_gradient("d_v", v, d_v, [&](const auto& moved) { return loss(cq, ck, moved); });
}

// What a token sees, from the contract's sentence alone: the softmax weight of every key, read off
// by one-hot values.
TEST(attention_mask) {
  const std::vector<int32_t> q_lengths{2, 3}, k_lengths{2, 5};
  const auto q_offsets = offsets_of(q_lengths), k_offsets = offsets_of(k_lengths);
  for (int64_t window : {0, 2}) {
    reference::AttentionLayout layout{q_offsets.data(), k_offsets.data(), 2, 1, 1, 7, window, 1};
    std::vector<double> q(5 * 7), k(7 * 7), v(7 * 7), out(5 * 7);
    for (size_t j = 0; j < 7; ++j) v[j * 7 + j] = 1;
    reference::attention_forward<double, double, double>(layout, as_view(q, 7), as_view(k, 7),
                                                         as_view(v, 7), as_view(out, 7),
                                                         static_cast<double*>(nullptr));
    for (int64_t t = 0; t < 5; ++t) {
      const int64_t document = t < 2 ? 0 : 1, first = document == 0 ? 0 : 2;
      const int64_t i = t - (document == 0 ? 0 : 2), lag = document == 0 ? 0 : 2;
      int64_t visible = 0;
      for (int64_t j = 0; j < k_lengths[static_cast<size_t>(document)]; ++j)
        visible += j <= i + lag && (window == 0 || j > i + lag - window);
      for (int64_t key = 0; key < 7; ++key) {
        const int64_t j = key - first;
        const bool sees = j >= 0 && j < k_lengths[static_cast<size_t>(document)] && j <= i + lag &&
                          (window == 0 || j > i + lag - window);
        CHECK_NEAR(out[static_cast<size_t>(t * 7 + key)],
                   sees ? 1.0 / static_cast<double>(visible) : 0.0, 1e-15);
      }
    }
  }
}

TEST(attention_kernels) {
  for (const AttentionCase& c : attention_cases()) {
    for (DType dtype : kActivations) {
      check_every_isa(
          "attention " + c.name + ", " + dtype_name(dtype), [&](std::shared_ptr<Device> device) {
            const auto q_starts = offsets_of(c.q_lengths), k_starts = offsets_of(c.k_lengths);
            const int64_t tq = q_starts.back(), tk = k_starts.back();
            const int64_t q_cols = int64_t{c.heads} * c.head_dim;
            const int64_t kv_cols = int64_t{c.kv_heads} * c.head_dim;
            TestMatrix q(device, tq, q_cols, dtype, 1), k(device, tk, kv_cols, dtype, 2);
            TestMatrix v(device, tk, kv_cols, dtype, 3), out(device, tq, q_cols, dtype, 4);
            TestMatrix d_out(device, tq, q_cols, dtype, 5), d_k(device, tk, kv_cols, dtype, 6);
            TestMatrix d_v(device, tk, kv_cols, dtype, 7);
            TestVector lse(device, c.heads * tq, 8);
            TestIndices q_offsets(device, q_starts), k_offsets(device, k_starts);
            AttentionShape shape;
            shape.query_tokens = tq;
            shape.key_tokens = tk;
            shape.heads = c.heads;
            shape.kv_heads = c.kv_heads;
            shape.head_dim = c.head_dim;
            shape.activation = dtype;
            const size_t forward_bytes = ops::attention_workspace_bytes(*device, shape);
            shape.backward = true;
            TestWorkspace workspace(
                device, std::max(forward_bytes, ops::attention_workspace_bytes(*device, shape)));
            AttentionForward forward;
            forward.q = q.matrix();
            forward.k = k.matrix();
            forward.v = v.matrix();
            forward.out = out.matrix();
            forward.lse = lse.data();
            forward.q_offsets = q_offsets.data();
            forward.k_offsets = k_offsets.data();
            forward.documents = static_cast<int32_t>(c.q_lengths.size());
            forward.heads = c.heads;
            forward.kv_heads = c.kv_heads;
            forward.head_dim = c.head_dim;
            forward.window = c.window;
            forward.scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
            forward.workspace = workspace.data();
            forward.workspace_bytes = workspace.bytes();
            ops::attention_forward(*device, forward);
            CHECK(out.padding_intact());
            const reference::AttentionLayout layout{
                q_starts.data(),   k_starts.data(),
                forward.documents, c.heads,
                c.kv_heads,        c.head_dim,
                c.window,          static_cast<double>(forward.scale)};
            const auto outs = out.values(), lses = lse.values();
            auto bounds = bounds_of(layout, dtype, q.values(), k.values(), v.values(), outs,
                                    d_out.values(), lses);
            add_output_rounding(bounds.out, outs, dtype);
            Outputs outputs{{"out", outs, bounds.out}, {"lse", lses, bounds.lse}};

            // The backward pass starts from the same inputs on every device.
            auto qs = q.values(), ks = k.values(), vs = v.values();
            std::vector<double> given(outs.size()), log_sums(lses.size());
            reference::attention_forward<double, double, double>(
                layout, as_view(qs, q_cols), as_view(ks, kv_cols), as_view(vs, kv_cols),
                as_view(given, q_cols), log_sums.data());
            for (double& value : given) value = rounded(value, dtype);
            for (double& value : log_sums) value = rounded(value, DType::kF32);
            TestMatrix out_given(device, tq, q_cols, dtype, 9);
            out_given.set(given);
            TestVector lse_given(device, log_sums);
            AttentionBackward backward;
            backward.forward = forward;
            backward.forward.out = out_given.matrix();
            backward.forward.lse = lse_given.data();
            backward.d_out = d_out.matrix();
            backward.d_q = d_out.matrix();
            backward.d_k = d_k.matrix();
            backward.d_v = d_v.matrix();
            const auto d_outs = d_out.values();
            ops::attention_backward(*device, backward);
            CHECK(d_out.padding_intact());
            CHECK(d_k.padding_intact());
            CHECK(d_v.padding_intact());
            bounds = bounds_of(layout, dtype, qs, ks, vs, given, d_outs, log_sums);
            const auto d_qs = d_out.values(), d_ks = d_k.values(), d_vs = d_v.values();
            add_output_rounding(bounds.d_q, d_qs, dtype);
            add_output_rounding(bounds.d_k, d_ks, dtype);
            add_output_rounding(bounds.d_v, d_vs, dtype);
            outputs.push_back({"d_q", d_qs, bounds.d_q});
            outputs.push_back({"d_k", d_ks, bounds.d_k});
            outputs.push_back({"d_v", d_vs, bounds.d_v});
            return outputs;
          });
    }
  }
}

TEST(attention_checks_its_arguments) {
  const auto device = open_cpu("reference", 1);
  TestMatrix q(device, 3, 16, DType::kF32, 1), k(device, 3, 8, DType::kF32, 2);
  TestMatrix v(device, 3, 8, DType::kF32, 3), out(device, 3, 16, DType::kF32, 4);
  const int32_t offsets[] = {0, 1, 3}, longer[] = {0, 1, 4}, crossed[] = {0, 2, 1};
  AttentionForward good;
  good.q = q.matrix();
  good.k = k.matrix();
  good.v = v.matrix();
  good.out = out.matrix();
  good.q_offsets = good.k_offsets = offsets;
  good.documents = 2;
  good.heads = 2;
  good.kv_heads = 1;
  good.head_dim = 8;
  ops::attention_forward(*device, good);
  const auto fails = [&](const char* text, const auto& change) {
    AttentionForward op = good;
    change(op);
    CHECK_ERROR(ops::attention_forward(*device, op), ErrorCode::kInvalidArgument, text);
  };
  fails("q_offsets must end", [&](auto& op) { op.q_offsets = op.k_offsets = longer; });
  fails("fewer key rows", [&](auto& op) { op.k_offsets = crossed; });
  fails("k is [3, 8], expected [3, 16]", [](auto& op) { op.kv_heads = 2; });
  fails("multiple of kv_heads", [](auto& op) { op.kv_heads = 3; });
  fails("out overlaps q", [](auto& op) { op.out = op.q; });
  fails("q_offsets is null", [](auto& op) { op.q_offsets = nullptr; });
}
