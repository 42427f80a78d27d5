// AdamW with f32 states, and the squared norm.
#include <cmath>
#include <limits>

#include "cpu/reference/optimizer.h"
#include "ops/adamw.h"
#include "ops/squared_norm.h"
#include "support/isa_check.h"
#include "support/test.h"
#include "support/test_array.h"
#include "support/tolerance.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

std::vector<double> relative_bounds(const std::vector<double>& values,
                                    const std::vector<double>& scale, double relative) {
  std::vector<double> bounds;
  for (size_t i = 0; i < values.size(); ++i) bounds.push_back(relative * scale[i] + 1e-40);
  return bounds;
}

}  // namespace

// Two steps by hand from the formula of Loshchilov & Hutter, algorithm 2, in exact arithmetic:
// after step 1 m_hat = g and v_hat = g^2, so p = p (1 - lr wd) - lr g / (|g| + eps).
TEST(adamw_reference_first_step) {
  AdamW op;
  op.eps = 1e-3;
  op.grad_scale = 0.5f;
  double p = 2, g = -3, m = 0, v = 0;
  reference::adamw<double, double>(&p, &g, &m, &v, 1, 0.1, 0.01, op);
  CHECK_NEAR(p, 2 * (1 - 0.001) + 0.1 * 1.5 / (1.5 + 1e-3), 1e-15);
  CHECK_NEAR(m, -0.15, 1e-15);
  CHECK_NEAR(v, 0.001 * 2.25, 1e-15);
  CHECK_EQ(g, 0.0);
  op.step = 2;
  g = 4;  // scaled: 2
  reference::adamw<double, double>(&p, &g, &m, &v, 1, 0.1, 0, op);
  const double m_hat = (0.9 * -0.15 + 0.1 * 2) / (1 - 0.81);
  const double v_hat = (0.999 * 0.001 * 2.25 + 0.001 * 4) / (1 - 0.999 * 0.999);
  const double before = 2 * (1 - 0.001) + 0.1 * 1.5 / (1.5 + 1e-3);
  CHECK_NEAR(p, before - 0.1 * m_hat / (std::sqrt(v_hat) + 1e-3), 1e-13);
}

TEST(adamw_kernels) {
  for (int64_t step : {1, 7, 5000}) {
    check_every_isa("adamw step " + std::to_string(step), [&](std::shared_ptr<Device> device) {
      constexpr int64_t kCounts[] = {1, 0, 33, 4096, 70001, 200};
      std::vector<AdamWTensor> tensors;
      std::vector<TestVector> p, g, m, v;
      uint64_t key = 10;
      for (int64_t count : kCounts) {
        p.emplace_back(device, count, key++);
        g.emplace_back(device, count, key++, 0.1);
        m.emplace_back(device, count, key++, 0.01);
        auto squares = TestVector(device, count, key++, 0.03).values();
        for (double& x : squares) x = x * x;
        v.emplace_back(device, squares);
      }
      for (size_t i = 0; i < p.size(); ++i) {
        AdamWTensor tensor;
        tensor.parameter = p[i].data();
        tensor.gradient = g[i].data();
        tensor.m = m[i].data();
        tensor.v = v[i].data();
        tensor.count = kCounts[i];
        tensor.weight_decay = i % 2 == 0 ? 0.1f : 0.0f;
        tensor.learning_rate = 1e-2f * static_cast<float>(i + 1);
        tensors.push_back(tensor);
      }
      Outputs outputs;
      std::vector<std::vector<double>> p_before, m_scale;
      for (size_t i = 0; i < p.size(); ++i) {
        p_before.push_back(p[i].values());
        std::vector<double> scale;
        const auto gs = g[i].values(), ms = m[i].values();
        for (size_t j = 0; j < gs.size(); ++j)
          scale.push_back(0.9 * std::abs(ms[j]) + 0.1 * 0.7 * std::abs(gs[j]));
        m_scale.push_back(scale);
      }
      AdamW op;
      op.tensors = tensors.data();
      op.tensor_count = static_cast<int32_t>(tensors.size());
      op.step = step;
      op.grad_scale = 0.7f;
      ops::adamw(*device, op);
      const double rest1 = 1 - std::pow(0.9, static_cast<double>(step));
      const double rest2 = 1 - std::pow(0.999, static_cast<double>(step));
      for (size_t i = 0; i < p.size(); ++i) {
        const auto ps = p[i].values(), ms = m[i].values(), vs = v[i].values();
        std::vector<double> p_scale;
        for (size_t j = 0; j < ps.size(); ++j) {
          const double update = static_cast<double>(tensors[i].learning_rate) * m_scale[i][j] /
                                rest1 / (std::sqrt(vs[j] / rest2) + 1e-8);
          p_scale.push_back(std::abs(p_before[i][j]) + update);
        }
        // m, v: two rounded products and a sum, from rounded constants; the update adds a root, a
        // quotient and two products.
        outputs.push_back({"p", ps, relative_bounds(ps, p_scale, 12 * kU32)});
        outputs.push_back({"m", ms, relative_bounds(ms, m_scale[i], 6 * kU32)});
        outputs.push_back({"v", vs, relative_bounds(vs, vs, 6 * kU32)});
        outputs.push_back({"g", g[i].values(), {}});
      }
      return outputs;
    });
  }
}

TEST(squared_norm_kernels) {
  const auto norm = [](std::shared_ptr<Device> device, float poison) {
    std::vector<TestVector> vectors;
    std::vector<const float*> tensors;
    std::vector<int64_t> counts = {1, 0, 65, 70000, 131072, 17};
    for (size_t i = 0; i < counts.size(); ++i) {
      vectors.emplace_back(device, counts[i], 20 + i, std::pow(10.0, static_cast<double>(i) - 2));
      tensors.push_back(vectors.back().data());
    }
    if (poison != 0) {
      auto values = vectors[2].values();
      values[64] = static_cast<double>(poison);
      vectors[2] = TestVector(device, values);
      tensors[2] = vectors[2].data();
    }
    const TestArray<double> result(device, {-1});
    ops::squared_norm(*device, {.tensors = tensors.data(),
                                .counts = counts.data(),
                                .tensor_count = 6,
                                .result = result.data()});
    return result.values()[0];
  };
  check_every_isa("squared_norm", [&](std::shared_ptr<Device> device) {
    const double result = norm(device, 0);
    return Outputs{{"result", {result}, {result * 200000 * 0x1p-53}}};
  });
  std::vector<std::string> isas = fast_isas();
  isas.push_back("reference");
  for (const std::string& isa : isas) {
    CHECK(std::isnan(norm(open_cpu(isa, 2), NAN)));
    CHECK(std::isinf(norm(open_cpu(isa, 2), std::numeric_limits<float>::infinity())));
  }
}
