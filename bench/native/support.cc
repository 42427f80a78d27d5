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

double product_peak(const Device& device, DType dtype) {
  return device.peak(dtype == DType::kBF16 ? PeakKind::kBF16Products : PeakKind::kF32Products, 0.1);
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
