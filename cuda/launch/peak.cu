// What the device reaches at best, by loops of a known amount of work.
#include "cuda/kernels/peak.cuh"

#include <algorithm>
#include <vector>

#include "cuda/runtime.h"

namespace lowrank::cuda {
namespace {

constexpr int64_t kFirstRounds = 16;
constexpr size_t kReadBytes = size_t{512} << 20;  // far more than any second-level cache

// The fastest tenth of repetitions of `work(amount)`, whose amount is first raised until one takes
// a hundredth of `seconds`; per unit of amount.
template <typename Work>
double best_rate(CudaDevice& device, double seconds, bool grow, const Work& work) {
  int64_t amount = kFirstRounds;
  const auto measure = [&] {
    struct Call {
      const Work& work;
      int64_t amount;
    } call{work, amount};
    return runtime::time(
        device.stream,
        [](void* argument) {
          const Call& c = *static_cast<Call*>(argument);
          c.work(c.amount);
        },
        &call);
  };
  double once = measure();
  while (grow && once < seconds / 100 && amount < (int64_t{1} << 40)) {
    amount *= 2;
    once = measure();
  }
  std::vector<double> times;
  for (double total = 0; total < seconds; total += times.back()) times.push_back(measure());
  std::sort(times.begin(), times.end());
  return static_cast<double>(amount) / times[times.size() / 10];
}

}  // namespace

double measure_peak(CudaDevice& device, PeakKind kind, double seconds) {
  auto* sink = reinterpret_cast<float*>(device.partials);
  const auto blocks = static_cast<unsigned>(runtime::processors(device.stream) * 8);
  if (kind == PeakKind::kMemoryRead) {
    const size_t bytes = runtime::host_memory() ? size_t{1} << 20 : kReadBytes;
    struct Memory {
      Stream stream;
      void* data;
      ~Memory() { runtime::release(stream, data); }
    } memory{device.stream, runtime::allocate(device.stream, bytes)};
    const int64_t words = static_cast<int64_t>(bytes / 16);
    const double rate = best_rate(device, seconds, false, [&](int64_t) {
      launch<NoShared>(device.stream, read_peak_kernel, flat_grid(words), kRowThreads,
                       static_cast<const char*>(memory.data), words, sink);
    });
    return rate / static_cast<double>(kFirstRounds) * static_cast<double>(bytes);
  }
  const bool matrix = kind == PeakKind::kBF16Products;
  const double rate = best_rate(device, seconds, true, [&](int64_t rounds) {
    launch<NoShared>(device.stream, matrix ? bf16_peak_kernel : f32_peak_kernel, Grid{blocks},
                     kPeakThreads, rounds, 0.5f, sink);
  });
  const double per_block = matrix ? kPeakThreads / kWarp * 4 * 4096.0 : kPeakThreads * 8 * 2.0;
  return rate * per_block * blocks;
}

}  // namespace lowrank::cuda
