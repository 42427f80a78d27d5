// What the machine reaches at best, for shares of it: register-only products and reads of memory
// beyond the caches, with every worker busy.
#include "cpu/peak.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "core/os.h"

namespace lowrank::cpu {
namespace {

constexpr size_t kReadBytes = size_t{512} << 20;
constexpr size_t kReadPart = size_t{1} << 20;

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Repeats `part`, which returns the work it did, and takes the rate that a tenth of the parts
// reached: others may use the machine meanwhile.
template <typename Part>
double best_rate(double seconds, const Part& part) {
  std::vector<double> rates;
  const double end = now() + seconds;
  do {
    const double begin = now();
    const double work = part();
    rates.push_back(work / std::max(now() - begin, 1e-9));
  } while (now() < end || rates.size() < 10);
  const auto tenth = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 10);
  std::nth_element(rates.begin(), tenth, rates.end(), std::greater<>());
  return *tenth;
}

double product_rate(CpuDevice& device, int64_t (*loop)(int64_t), double seconds) {
  constexpr int64_t kRounds = 2000;  // about a millisecond
  const int workers = device.pool.size();
  return best_rate(seconds, [&] {
    std::vector<int64_t> done(static_cast<size_t>(workers));
    device.pool.parallel_for(workers,
                             [&](int64_t i, int) { done[static_cast<size_t>(i)] = loop(kRounds); });
    double sum = 0;
    for (int64_t flops : done) sum += static_cast<double>(flops);
    return sum;
  });
}

double read_rate(CpuDevice& device, double seconds) {
  char* memory = static_cast<char*>(os::allocate_pages(kReadBytes));
  // Untouched pages may all be the same page of zeros.
  for (size_t i = 0; i < kReadBytes; i += 4096) memory[i] = 1;
  const double rate = best_rate(seconds, [&] {
    device.pool.parallel_for(kReadBytes / kReadPart, [&](int64_t i, int) {
      device.kernels.read_loop(memory + static_cast<size_t>(i) * kReadPart, kReadPart);
    });
    return static_cast<double>(kReadBytes);
  });
  os::free_pages(memory, kReadBytes);
  return rate;
}

}  // namespace

double measure_peak(CpuDevice& device, PeakKind kind, double seconds) {
  switch (kind) {
    case PeakKind::kF32Products:
      return product_rate(device, device.kernels.f32_product_loop, seconds);
    case PeakKind::kBF16Products:
      return product_rate(device, device.kernels.bf16_product_loop, seconds);
    case PeakKind::kMemoryRead:
      return read_rate(device, seconds);
  }
  return 0;
}

}  // namespace lowrank::cpu
