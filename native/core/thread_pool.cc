#include "core/thread_pool.h"

#include <chrono>

#include "core/os.h"

namespace lowrank {
namespace {

constexpr uint32_t kOpen = 1u << 15;  // more workers may join
constexpr uint32_t kJoined = kOpen - 1;
constexpr int kGenerationShift = 16;

// Loops follow each other within microseconds during a step, and waking a sleeping thread takes
// longer than many of them, so a thread looks out for a while before it sleeps.
constexpr std::chrono::microseconds kLookOut{50};

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Waits until done(state) is true; returns that state.
template <typename Done>
uint32_t await(const std::atomic<uint32_t>& word, const Done& done) {
  const auto end = std::chrono::steady_clock::now() + kLookOut;
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      const uint32_t state = word.load(std::memory_order_acquire);
      if (done(state)) return state;
      relax();
    }
    if (std::chrono::steady_clock::now() >= end) break;
  }
  for (;;) {
    const uint32_t state = word.load(std::memory_order_acquire);
    if (done(state)) return state;
    word.wait(state, std::memory_order_acquire);
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = os::physical_core_count();
  shares_ = std::vector<Share>(static_cast<size_t>(threads));
  workers_.reserve(static_cast<size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker_loop(i); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  state_.fetch_add(1u << kGenerationShift);
  state_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t count, Task task, const void* context) {
  task_ = task;
  context_ = context;
  const int64_t threads = size();
  for (int64_t i = 0; i < threads; ++i) {
    Share& share = shares_[static_cast<size_t>(i)];
    share.next.store(i * count / threads, std::memory_order_relaxed);
    share.end = (i + 1) * count / threads;
  }
  const uint32_t generation = (state_.load(std::memory_order_relaxed) >> kGenerationShift) + 1;
  state_.store(generation << kGenerationShift | kOpen, std::memory_order_release);
  state_.notify_all();
  work(0);
  // Whoever hasn't joined by now isn't needed; those who have are waited for.
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  await(state_, [](uint32_t state) { return (state & kJoined) == 0; });
}

void ThreadPool::work(int worker) {
  const int threads = size();
  for (int i = 0; i < threads; ++i) {
    Share& share = shares_[static_cast<size_t>((worker + i) % threads)];
    for (;;) {
      const int64_t index = share.next.fetch_add(1, std::memory_order_relaxed);
      if (index >= share.end) break;
      task_(context_, index, worker);
    }
  }
}

void ThreadPool::worker_loop(int worker) {
  uint32_t seen = 0;
  for (;;) {
    uint32_t state = await(state_, [&](uint32_t now) {
      return stop_ || ((now & kOpen) && now >> kGenerationShift != seen);
    });
    if (stop_) return;
    if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) continue;
    seen = state >> kGenerationShift;
    work(worker);
    const uint32_t before = state_.fetch_sub(1, std::memory_order_acq_rel);
    if ((before & (kOpen | kJoined)) == 1) state_.notify_all();
  }
}

}  // namespace lowrank
