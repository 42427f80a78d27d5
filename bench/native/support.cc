#include "support.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>

namespace lowrank::bench {
namespace {

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

double thread_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double quantile(std::vector<double>& samples, double q) {
  std::sort(samples.begin(), samples.end());
  return samples[static_cast<size_t>(q * static_cast<double>(samples.size() - 1))];
}

// Twelve independent chains hide the latency of two units. The inputs are opaque to the compiler.
#define LOWRANK_FMA_CHAIN(name, target, bytes)                  \
  target float name(long count, float x, float y) {             \
    using V = float __attribute__((vector_size(bytes)));        \
    V sum[12] = {};                                             \
    const V a = x - V{}, b = y - V{};                           \
    for (long i = 0; i < count; ++i) {                          \
      _Pragma("GCC unroll 12") for (V & s : sum) s = s * a + b; \
    }                                                           \
    float total = 0;                                            \
    for (const V& s : sum) total += s[0];                       \
    return total;                                               \
  }

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC optimize("fp-contract=fast")
#endif
LOWRANK_FMA_CHAIN(chain_512, __attribute__((target("avx512f,fma"))), 64)
LOWRANK_FMA_CHAIN(chain_256, __attribute__((target("avx2,fma"))), 32)
#endif
LOWRANK_FMA_CHAIN(chain_128, , 16)

}  // namespace

Timing measure(const std::function<void()>& body, double seconds) {
  body();
  std::vector<double> wall, cpu;
  const double end = now() + seconds;
  while (wall.size() < 5 || now() < end) {
    const double wall_begin = now(), cpu_begin = thread_seconds();
    body();
    cpu.push_back(thread_seconds() - cpu_begin);
    wall.push_back(now() - wall_begin);
  }
  Timing timing;
  timing.repeats = static_cast<int>(wall.size());
  timing.p20 = quantile(wall, 0.2);
  timing.p50 = quantile(wall, 0.5);
  timing.p80 = quantile(wall, 0.8);
  timing.cpu_p20 = quantile(cpu, 0.2);
  return timing;
}

double fma_peak(const std::string& isa) {
  float (*chain)(long, float, float) = chain_128;
  int lanes = 4;
#if defined(__x86_64__)
  if (isa == "avx512" || isa == "amx") chain = chain_512, lanes = 16;
  if (isa == "avx2") chain = chain_256, lanes = 8;
#endif
  constexpr long kCount = 200000;
  volatile float sink = 0;
  const Timing timing = measure([&] { sink = chain(kCount, 0.5f, sink); }, 0.2);
  return 2.0 * 12 * lanes * kCount / timing.cpu_p20;
}

Row& Row::text(const std::string& key, const std::string& value) {
  body_ += (body_.empty() ? "\"" : ",\"") + key + "\":\"" + value + "\"";
  return *this;
}

Row& Row::number(const std::string& key, double value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.6g", value);
  body_ += (body_.empty() ? "\"" : ",\"") + key + "\":" + digits;
  return *this;
}

void Row::print() const {
  std::printf("{%s}\n", body_.c_str());
  std::fflush(stdout);
}

}  // namespace lowrank::bench
