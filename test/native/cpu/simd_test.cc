// The error of exp, exp2, log and sigmoid in cpu/simd_math.h, measured against f64 over all
// magnitudes.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "support/test.h"

using Probe = void (*)(const float*, float*, int64_t);

namespace lowrank::cpu {
namespace avx2 {
void probe_exp(const float* from, float* to, int64_t count);
void probe_exp2(const float* from, float* to, int64_t count);
void probe_sigmoid(const float* from, float* to, int64_t count);
}  // namespace avx2
namespace avx512 {
void probe_exp(const float* from, float* to, int64_t count);
void probe_exp2(const float* from, float* to, int64_t count);
void probe_sigmoid(const float* from, float* to, int64_t count);
void probe_log(const float* from, float* to, int64_t count);
void probe_exp2_where(const float* from, float* to, int64_t count);
}  // namespace avx512
namespace neon {
void probe_exp(const float* from, float* to, int64_t count);
void probe_exp2(const float* from, float* to, int64_t count);
void probe_sigmoid(const float* from, float* to, int64_t count);
}  // namespace neon
}  // namespace lowrank::cpu

using namespace lowrank;

namespace {

struct Probes {
  cpu::Isa isa;
  Probe exp, exp2, sigmoid;
};

std::vector<Probes> available_probes() {
  std::vector<Probes> all;
#if defined(__x86_64__)
  all.push_back(
      {cpu::Isa::kAvx2, cpu::avx2::probe_exp, cpu::avx2::probe_exp2, cpu::avx2::probe_sigmoid});
  all.push_back({cpu::Isa::kAvx512, cpu::avx512::probe_exp, cpu::avx512::probe_exp2,
                 cpu::avx512::probe_sigmoid});
#elif defined(__aarch64__)
  all.push_back(
      {cpu::Isa::kNeon, cpu::neon::probe_exp, cpu::neon::probe_exp2, cpu::neon::probe_sigmoid});
#endif
  std::erase_if(all, [](const Probes& probes) { return !cpu::isa_available(probes.isa); });
  return all;
}

// Every 997th float in [low, high] of either sign.
std::vector<float> samples(float low, float high) {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 997) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (value >= low && value <= high) values.push_back(value);
  }
  return values;
}

// The largest error in units of the last place of the exact value.
double largest_error(Probe probe, const std::vector<float>& inputs, double (*exact)(double)) {
  std::vector<float> results(inputs.size());
  probe(inputs.data(), results.data(), static_cast<int64_t>(inputs.size()));
  double largest = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const double expected = exact(static_cast<double>(inputs[i]));
    const double ulp = std::ldexp(1.0, std::ilogb(expected) - 23);
    largest = std::fmax(largest, std::abs(static_cast<double>(results[i]) - expected) / ulp);
    if (std::isnan(results[i])) return INFINITY;
  }
  return largest;
}

}  // namespace

TEST(exp_is_within_one_ulp) {
  const auto inputs = samples(-87.3365f, 88.72f);
  for (const Probes& probes : available_probes()) {
    const double error = largest_error(probes.exp, inputs, [](double x) { return std::exp(x); });
    std::printf("exp %s: %.3f ulp\n", cpu::isa_name(probes.isa), error);
    CHECK(error <= 1);
  }
}

TEST(exp_at_the_edges) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float inputs[] = {0.0f, -0.0f, kInfinity, -kInfinity, 88.73f, 1e30f, -87.4f, -1e30f, NAN};
  for (const Probes& probes : available_probes()) {
    float results[9];
    probes.exp(inputs, results, 9);
    CHECK_EQ(results[0], 1.0f);
    CHECK_EQ(results[1], 1.0f);
    CHECK_EQ(results[2], kInfinity);
    CHECK_EQ(results[3], 0.0f);
    CHECK_EQ(results[4], kInfinity);
    CHECK_EQ(results[5], kInfinity);
    CHECK_EQ(results[6], 0.0f);
    CHECK_EQ(results[7], 0.0f);
    CHECK(std::isnan(results[8]));
  }
}

TEST(exp2_is_within_three_ulp) {
  const auto inputs = samples(-125.99f, 127.0f);
  for (const Probes& probes : available_probes()) {
    const double error = largest_error(probes.exp2, inputs, [](double x) { return std::exp2(x); });
    std::printf("exp2 %s: %.3f ulp\n", cpu::isa_name(probes.isa), error);
    CHECK(error <= 3);
    const float edges[] = {-126.5f, -1e30f, -std::numeric_limits<float>::infinity(), NAN, 3.0f};
    float results[5];
    probes.exp2(edges, results, 5);
    for (int i = 0; i < 3; ++i) CHECK_EQ(results[i], 0.0f);
    CHECK(std::isnan(results[3]));
    CHECK(std::abs(results[4] - 8.0f) <= 3 * 9.6e-7f);
  }
}

TEST(sigmoid_is_within_three_ulp) {
  const auto inputs = samples(-87.3f, 100.0f);
  for (const Probes& probes : available_probes()) {
    const double error =
        largest_error(probes.sigmoid, inputs, [](double x) { return 1 / (1 + std::exp(-x)); });
    std::printf("sigmoid %s: %.3f ulp\n", cpu::isa_name(probes.isa), error);
    CHECK(error <= 3);
  }
}

#if defined(__x86_64__)
TEST(log_is_within_three_ulp) {
  if (!cpu::isa_available(cpu::Isa::kAvx512)) return;
  auto inputs = samples(std::numeric_limits<float>::min(), 0x1p127f);
  std::erase(inputs, 1.0f);
  const double error =
      largest_error(cpu::avx512::probe_log, inputs, [](double x) { return std::log(x); });
  std::printf("log avx512: %.3f ulp\n", error);
  CHECK(error <= 3);
  const float one = 1;
  float result = -1;
  cpu::avx512::probe_log(&one, &result, 1);
  CHECK_EQ(result, 0.0f);
}

TEST(exp2_where_has_no_subnormal_results) {
  if (!cpu::isa_available(cpu::Isa::kAvx512)) return;
  const float inputs[] = {3, 3, -126.5f, -1e30f, -1e30f, 0, -125, 0, NAN};
  float results[9];
  cpu::avx512::probe_exp2_where(inputs, results, 9);
  CHECK(std::abs(results[0] - 8.0f) <= 3 * 9.6e-7f);
  CHECK(std::abs(results[2] / 0x1p-126f - 1) <= 3 * 0x1p-23f);
  CHECK_EQ(results[4], results[2]);
  CHECK(std::abs(results[6] / 0x1p-125f - 1) <= 3 * 0x1p-23f);
  for (int i = 1; i < 9; i += 2) CHECK_EQ(results[i], 0.0f);
}
#endif
