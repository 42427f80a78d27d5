// 8-bit AdamW: against a step computed in f64 by bitsandbytes' definition
// (test/golden/quantization_fixture.py), every fast path against the scalar reference, and the loss
// against f32 states.
#include <cmath>

#include "core/dynamic_map.h"
#include "core/random.h"
#include "ops/quantization_support.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

using DevicePointer = std::shared_ptr<Device>;

// A parameter with its gradient and 8-bit states on a device, and f32 states for comparison.
struct Parameter {
  Parameter(const DevicePointer& device, const std::vector<float>& initial)
      : value(device, initial),
        gradient(device, zeros(initial.size())),
        m_codes(device, std::vector<uint8_t>(initial.size())),
        v_codes(device, std::vector<uint8_t>(initial.size())),
        m_absmax(device, zeros((initial.size() + 255) / 256)),
        v_absmax(device, zeros((initial.size() + 255) / 256)),
        m(device, zeros(initial.size())),
        v(device, zeros(initial.size())),
        count(static_cast<int64_t>(initial.size())) {}

  static std::vector<float> zeros(size_t size) { return std::vector<float>(size); }

  AdamWTensor tensor() {
    AdamWTensor t;
    t.parameter = value.data();
    t.gradient = gradient.data();
    t.m_codes = m_codes.data();
    t.v_codes = v_codes.data();
    t.m_absmax = m_absmax.data();
    t.v_absmax = v_absmax.data();
    t.m = m.data();
    t.v = v.data();
    t.count = count;
    return t;
  }

  TestArray<float> value, gradient;
  TestArray<uint8_t> m_codes, v_codes;
  TestArray<float> m_absmax, v_absmax;
  TestArray<float> m, v;
  int64_t count;
};

void step(const DevicePointer& device, std::vector<AdamWTensor> tensors, int64_t index,
          bool eight_bit, float grad_scale = 1) {
  AdamW op;
  op.tensors = tensors.data();
  op.tensor_count = static_cast<int32_t>(tensors.size());
  op.step = index;
  op.grad_scale = grad_scale;
  op.eight_bit = eight_bit;
  device->check(device->backend().adamw(device->handle(), &op), "adamw");
}

// Codes may differ from those of f64 arithmetic where a value lies within rounding of a threshold.
void check_codes(const std::string& what, const std::vector<uint8_t>& actual,
                 const std::vector<uint8_t>& expected) {
  int differing = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const int distance = std::abs(int{actual[i]} - int{expected[i]});
    differing += distance != 0;
    if (distance > 1) report_failure(__FILE__, __LINE__, what + " is off at " + std::to_string(i));
  }
  if (differing > 2)
    report_failure(__FILE__, __LINE__, what + ": " + std::to_string(differing) + " codes differ");
}

std::vector<float> normal_values(uint64_t seed, size_t count, float scale) {
  std::vector<float> x(count);
  for (size_t i = 0; i < count; ++i)
    x[i] = random_normal(random_key(seed, RandomUse::kTest), i) * scale;
  return x;
}

}  // namespace

TEST(adamw_8bit_follows_bitsandbytes) {
  const SafetensorsFile file = fixture("adamw_8bit.safetensors");
  const std::vector<float> gradients = values_of<float>(file, "gradients");
  for (const auto& [name, device] : devices()) {
    Parameter p(device, values_of<float>(file, "initial"));
    for (int64_t s = 1; s <= 20; ++s) {
      const auto begin = gradients.begin() + (s - 1) * p.count;
      p.gradient.set({begin, begin + p.count});
      AdamWTensor tensor = p.tensor();
      tensor.learning_rate = 1e-3f;
      tensor.weight_decay = 0.01f;
      step(device, {tensor}, s, true);
      if (s > 3 && s % 5 != 0) continue;  // the file has the others
      // gcc 12 warns about `"." + std::to_string(s)` (its bug 105651).
      const std::string suffix = std::string(".") + std::to_string(s), what = name + suffix;
      check_codes(what + " m", p.m_codes.values(), values_of<uint8_t>(file, "m_codes" + suffix));
      check_codes(what + " v", p.v_codes.values(), values_of<uint8_t>(file, "v_codes" + suffix));
      const auto expected = values_of<float>(file, "parameter" + suffix);
      // A step moves a value by about 1e-3 and rounds it to f32.
      const auto actual = p.value.values(), m_actual = p.m_absmax.values();
      const auto v_actual = p.v_absmax.values();
      for (size_t i = 0; i < expected.size(); ++i)
        CHECK_NEAR(actual[i], expected[i],
                   static_cast<double>(s) * (1e-3 * 0x1p-20 + std::abs(expected[i]) * 0x1p-23));
      const auto m_absmax = values_of<float>(file, "m_absmax" + suffix);
      const auto v_absmax = values_of<float>(file, "v_absmax" + suffix);
      for (size_t i = 0; i < m_absmax.size(); ++i) {
        CHECK_NEAR(m_actual[i], m_absmax[i], m_absmax[i] * 0x1p-21);
        CHECK_NEAR(v_actual[i], v_absmax[i], v_absmax[i] * 0x1p-21);
      }
      for (float g : p.gradient.values()) CHECK_EQ(g, 0.0f);
    }
  }
}

TEST(adamw_8bit_fast_paths_have_the_bits_of_the_reference) {
  // Several tensors, of which some end inside a block and one spans tasks.
  const std::vector<size_t> sizes = {1, 255, 256, 257, 256 * 130 + 40, 1024};
  const auto run = [&](const DevicePointer& device) {
    std::vector<Parameter> parameters;
    for (size_t i = 0; i < sizes.size(); ++i)
      parameters.emplace_back(device, normal_values(i, sizes[i], 1));
    for (int64_t s = 1; s <= 4; ++s) {
      std::vector<AdamWTensor> tensors;
      for (size_t i = 0; i < sizes.size(); ++i) {
        parameters[i].gradient.set(
            normal_values(static_cast<uint64_t>(100 * s) + i, sizes[i], s == 3 ? 1e-9f : 0.1f));
        tensors.push_back(parameters[i].tensor());
        tensors.back().learning_rate = 1e-2f / static_cast<float>(i + 1);
        tensors.back().weight_decay = i % 2 == 0 ? 0.0f : 0.1f;
      }
      step(device, tensors, s, true, 0.7f);
    }
    return parameters;
  };
  const std::vector<Parameter> expected = run(devices()[0].device);
  for (int threads = 1; threads <= 3; ++threads)
    for (const auto& [name, device] : devices(threads)) {
      const std::vector<Parameter> actual = run(device);
      for (size_t i = 0; i < sizes.size(); ++i) {
        const std::string what = name + " " + std::to_string(sizes[i]);
        check_same_bits(what + " value", actual[i].value.values(), expected[i].value.values());
        check_same_bits(what + " m", actual[i].m_codes.values(), expected[i].m_codes.values());
        check_same_bits(what + " v", actual[i].v_codes.values(), expected[i].v_codes.values());
        check_same_bits(what + " m absmax", actual[i].m_absmax.values(),
                        expected[i].m_absmax.values());
        check_same_bits(what + " v absmax", actual[i].v_absmax.values(),
                        expected[i].v_absmax.values());
      }
    }
}

namespace {

// Logistic regression on 512 points of 300 features whose labels follow a hidden direction; returns
// the mean loss after each of 200 steps with full-batch gradients.
std::vector<double> logistic_losses(const DevicePointer& device, bool eight_bit) {
  constexpr size_t kPoints = 512, kFeatures = 300;
  const std::vector<float> x = normal_values(21, kPoints * kFeatures, 1);
  const std::vector<float> hidden = normal_values(22, kFeatures, 1);
  const std::vector<float> noise = normal_values(23, kPoints, 4);
  const auto project = [&](const std::vector<float>& w, size_t point) {
    double sum = 0;
    for (size_t f = 0; f < kFeatures; ++f) sum += double{x[point * kFeatures + f]} * w[f];
    return sum;
  };
  Parameter w(device, std::vector<float>(kFeatures, 0.0f));
  std::vector<float> values(kFeatures), slopes(kFeatures);
  std::vector<double> losses;
  for (int64_t s = 1; s <= 200; ++s) {
    double loss = 0;
    std::vector<double> gradient(kFeatures);
    for (size_t point = 0; point < kPoints; ++point) {
      const double label = project(hidden, point) + noise[point] > 0 ? 1 : -1;
      const double margin = label * project(values, point);
      loss += std::log1p(std::exp(-margin)) / kPoints;
      const double slope = -label / (1 + std::exp(margin)) / kPoints;
      for (size_t f = 0; f < kFeatures; ++f) gradient[f] += slope * x[point * kFeatures + f];
    }
    losses.push_back(loss);
    for (size_t f = 0; f < kFeatures; ++f) slopes[f] = static_cast<float>(gradient[f]);
    w.gradient.set(slopes);
    AdamWTensor tensor = w.tensor();
    tensor.learning_rate = 1e-2f;
    tensor.weight_decay = 0.01f;
    step(device, {tensor}, s, eight_bit);
    values = w.value.values();
  }
  return losses;
}

}  // namespace

TEST(adamw_8bit_learns_as_with_f32_states) {
  const auto device = devices().back().device;
  const std::vector<double> exact = logistic_losses(device, false);
  const std::vector<double> coded = logistic_losses(device, true);
  CHECK_NEAR(coded.front(), std::log(2.0), 1e-6);
  CHECK(exact.back() < 0.1);
  // Coded states are off by a few percent, and so is the pace at which the loss falls.
  for (size_t s = 0; s < 189; ++s) {
    CHECK(coded[s] >= exact[s * 105 / 100 + 1]);
    CHECK(s == 0 || coded[s] <= exact[s * 95 / 100]);
  }
}
