// From gradients to a clipped update without the host: the squared norm on the device, the values
// that must be finite, and what AdamW makes of both.
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "ops/adamw.h"
#include "ops/squared_norm.h"
#include "support/isa_check.h"
#include "support/test.h"
#include "support/test_array.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

using DevicePointer = std::shared_ptr<Device>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Every instruction set and the reference, with every number of threads.
void for_each_device(const std::function<void(const DevicePointer&)>& body) {
  std::vector<std::string> isas = fast_isas();
  isas.push_back("reference");
  for (const std::string& isa : isas)
    for (int threads = 1; threads <= most_threads(); ++threads) body(open_cpu(isa, threads));
}

std::vector<float> normal_values(uint64_t key, int64_t count, double deviation) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i)
    values.push_back(static_cast<float>(deviation * normal(key, i)));
  return values;
}

// One tensor with states of both kinds.
struct Trained {
  Trained(const DevicePointer& device, int64_t size)
      : count(size),
        parameter(device, normal_values(1, size, 1)),
        gradient(device, normal_values(2, size, 0.1)),
        m(device, normal_values(3, size, 0.01)),
        v(device, std::vector<float>(static_cast<size_t>(size), 1e-4f)),
        m_absmax(device, std::vector<float>(blocks(), 0.01f)),
        v_absmax(device, std::vector<float>(blocks(), 1e-4f)),
        m_codes(device, std::vector<uint8_t>(static_cast<size_t>(size), 200)),
        v_codes(device, std::vector<uint8_t>(static_cast<size_t>(size), 100)) {}

  size_t blocks() const {
    return static_cast<size_t>((count + kOptimizerBlock - 1) / kOptimizerBlock);
  }

  AdamWTensor tensor() const {
    AdamWTensor tensor;
    tensor.parameter = parameter.data();
    tensor.gradient = gradient.data();
    tensor.m = m.data();
    tensor.v = v.data();
    tensor.m_codes = m_codes.data();
    tensor.v_codes = v_codes.data();
    tensor.m_absmax = m_absmax.data();
    tensor.v_absmax = v_absmax.data();
    tensor.count = count;
    tensor.weight_decay = 0.1f;
    tensor.learning_rate = 1e-2f;
    return tensor;
  }

  int64_t count;
  TestArray<float> parameter, gradient, m, v, m_absmax, v_absmax;
  TestArray<uint8_t> m_codes, v_codes;
};

// Several of them, of which some end inside a block of 256.
struct Optimized {
  explicit Optimized(const DevicePointer& device) {
    for (int64_t count : {1, 300, 70001}) trained.emplace_back(device, count);
    for (const Trained& each : trained) {
      tensors.push_back(each.tensor());
      gradients.push_back(each.gradient.data());
      counts.push_back(each.count);
    }
  }

  SquaredNorm squared_norm() const {
    SquaredNorm op;
    op.tensors = gradients.data();
    op.counts = counts.data();
    op.tensor_count = static_cast<int32_t>(counts.size());
    return op;
  }

  AdamW adamw(bool eight_bit) const {
    AdamW op;
    op.tensors = tensors.data();
    op.tensor_count = static_cast<int32_t>(tensors.size());
    op.step = 3;
    op.eight_bit = eight_bit;
    return op;
  }

  // The bits of everything, so that NaN equals NaN.
  std::vector<uint32_t> bits() const {
    std::vector<uint32_t> all;
    for (const Trained& each : trained) {
      for (const auto* array :
           {&each.parameter, &each.gradient, &each.m, &each.v, &each.m_absmax, &each.v_absmax})
        for (float value : array->values()) all.push_back(std::bit_cast<uint32_t>(value));
      for (const auto* array : {&each.m_codes, &each.v_codes})
        for (uint8_t code : array->values()) all.push_back(code);
    }
    return all;
  }

  std::vector<Trained> trained;
  std::vector<AdamWTensor> tensors;
  std::vector<const float*> gradients;
  std::vector<int64_t> counts;
};

double computed_norm(const DevicePointer& device, SquaredNorm op) {
  const TestArray<double> result(device, {-1});
  op.result = result.data();
  ops::squared_norm(*device, op);
  return std::sqrt(result.values()[0]);
}

}  // namespace

TEST(the_norm_is_not_finite_when_a_value_that_must_be_finite_is_not) {
  constexpr int64_t kCount = 70001;  // more than a kernel's block reads
  for_each_device([&](const DevicePointer& device) {
    const Optimized optimized(device);
    std::vector<float> values = normal_values(7, kCount + 1, 1e30);
    values.back() = kNan;  // isn't one of them
    TestArray<float> finite(device, values);
    SquaredNorm op = optimized.squared_norm();
    const double norm = computed_norm(device, op);
    op.finite = finite.data();
    op.finite_count = kCount;
    CHECK_EQ(computed_norm(device, op), norm);
    SquaredNorm alone;
    alone.finite = finite.data();
    alone.finite_count = kCount;
    CHECK_EQ(computed_norm(device, alone), 0.0);
    CHECK_EQ(computed_norm(device, {}), 0.0);
    for (const size_t place : {size_t{0}, size_t{66000}, size_t{kCount - 1}})
      for (const float bad : {kNan, kInfinity, -kInfinity}) {
        std::vector<float> poisoned = values;
        poisoned[place] = bad;
        finite.set(poisoned);
        CHECK(std::isnan(computed_norm(device, op)));
      }
  });
}

// The definition of torch.nn.utils.clip_grad_norm_ by hand, as a factor that the caller gives.
TEST(clipping_on_the_device_is_a_factor_of_the_gradients) {
  for_each_device([](const DevicePointer& device) {
    for (const bool eight_bit : {false, true}) {
      const double norm = computed_norm(device, Optimized(device).squared_norm());
      CHECK(norm > 1);
      const std::pair<double, float> cases[] = {
          {0, 1.0f},
          {-1, 1.0f},
          {norm, 1.0f},
          {2 * norm, 1.0f},
          {0.25, static_cast<float>(0.25 / (norm + 1e-6))},
          {0.9 * norm, static_cast<float>(0.9 * norm / (norm + 1e-6))}};
      for (const auto& [max_norm, factor] : cases) {
        const Optimized clipped(device), scaled(device);
        const TestArray<double> squared_norm(device, {-1});
        SquaredNorm norm_op = clipped.squared_norm();
        norm_op.result = squared_norm.data();
        ops::squared_norm(*device, norm_op);
        AdamW op = clipped.adamw(eight_bit);
        op.grad_scale = 0.7f;
        op.squared_norm = squared_norm.data();
        op.max_norm = max_norm;
        ops::adamw(*device, op);
        op = scaled.adamw(eight_bit);
        op.grad_scale = 0.7f * factor;
        op.max_norm = 1e-3;  // isn't read without a norm
        ops::adamw(*device, op);
        CHECK(clipped.bits() == scaled.bits());
        CHECK(clipped.bits() != Optimized(device).bits());
      }
    }
  });
}

TEST(nothing_is_updated_without_a_finite_norm) {
  for_each_device([](const DevicePointer& device) {
    for (const bool eight_bit : {false, true})
      for (const double max_norm : {0.0, 1.0})
        for (const bool in_gradient : {false, true})
          for (const float bad : {0.0f, kNan, kInfinity, -kInfinity}) {
            Optimized optimized(device);
            const TestArray<float> finite(device, {1, in_gradient ? 1 : bad});
            if (in_gradient) {
              std::vector<float> gradient = optimized.trained[1].gradient.values();
              gradient[299] = bad;
              optimized.trained[1].gradient.set(gradient);
            }
            const std::vector<uint32_t> before = optimized.bits();
            const TestArray<double> squared_norm(device, {-1});
            SquaredNorm norm_op = optimized.squared_norm();
            norm_op.finite = finite.data();
            norm_op.finite_count = 2;
            norm_op.result = squared_norm.data();
            ops::squared_norm(*device, norm_op);
            AdamW op = optimized.adamw(eight_bit);
            op.squared_norm = squared_norm.data();
            op.max_norm = max_norm;
            ops::adamw(*device, op);
            CHECK_EQ(optimized.bits() == before, bad != 0);
          }
  });
}

TEST(a_norm_of_unusable_arguments_is_refused) {
  const DevicePointer device = open_cpu("reference", 1);
  SquaredNorm op;
  CHECK_ERROR(ops::squared_norm(*device, op), ErrorCode::kInvalidArgument, "result");
  double result = 0;
  op.result = &result;
  op.finite_count = 1;
  CHECK_ERROR(ops::squared_norm(*device, op), ErrorCode::kInvalidArgument, "finite");
  op.finite_count = -1;
  CHECK_ERROR(ops::squared_norm(*device, op), ErrorCode::kInvalidArgument, "negative");
}
