#include "support.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <utility>

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

// Below this share of the fastest probe's speed, somebody else was at work.
constexpr double kCalm = 0.94;

}  // namespace

double quantile(std::vector<double> samples, double q) {
  std::sort(samples.begin(), samples.end());
  return samples[static_cast<size_t>(q * static_cast<double>(samples.size() - 1))];
}

CalmTimes measure_calm(const Device& device, DType dtype,
                       const std::vector<std::function<void()>>& bodies, double wanted,
                       double most) {
  struct Window {
    std::vector<std::vector<double>> seconds;
    double slower = 0, length = 0;  // slower: seconds of the longer probe beside it
  };
  for (const auto& body : bodies) body();
  // A single thread's own time is steadier.
  const auto clock = device.info().threads == 1 ? thread_seconds : now;
  const double goal = wanted * static_cast<double>(bodies.size()), end = now() + most;
  std::vector<Window> windows;
  CalmTimes result;
  // A fixed number of products: how long they take shows disturbances that the best of them
  // doesn't.
  double fastest = 1e9;
  const auto probe = [&] {
    const double begin = now();
    result.peak = std::max(result.peak, product_peak(device, dtype, 0));
    const double seconds = now() - begin;
    fastest = std::min(fastest, seconds);
    return seconds;
  };
  double before = probe(), calm = 0, all = 0;
  do {
    Window window;
    window.seconds.resize(bodies.size());
    const double begin = now();
    do
      for (size_t i = 0; i < bodies.size(); ++i) {
        const double start = clock();
        bodies[i]();
        window.seconds[i].push_back(clock() - start);
      }
    while (now() < begin + 0.03);
    window.length = now() - begin;
    const double after = probe();
    window.slower = std::max(before, after);
    before = after;
    windows.push_back(std::move(window));
    calm = all = 0;
    for (const Window& w : windows) {
      all += w.length;
      if (kCalm * w.slower <= fastest) calm += w.length;
    }
  } while (calm < goal && now() < end);
  result.calm = calm / all;
  result.seconds.resize(bodies.size());
  for (const Window& w : windows)
    if (calm == 0 || kCalm * w.slower <= fastest)
      for (size_t i = 0; i < bodies.size(); ++i)
        result.seconds[i].insert(result.seconds[i].end(), w.seconds[i].begin(), w.seconds[i].end());
  return result;
}

double product_peak(const Device& device, DType dtype, double seconds) {
  return device.peak(dtype == DType::kBF16 ? PeakKind::kBF16Products : PeakKind::kF32Products,
                     seconds);
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
