// A fixed set of workers for data-parallel loops. Results must never depend on how many there are:
// callers split work into pieces by the problem's shape and give each piece to exactly one worker.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace lowrank {

class ThreadPool {
 public:
  // `threads` counts the calling thread; 0 means one per physical core.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index, worker) for index in [0, count), each exactly once, in no fixed order;
  // `worker` in [0, size()) names the thread, for per-thread scratch memory. Returns when all are
  // done. Allocates nothing. The body must not throw and must not call parallel_for.
  // Each worker begins with its own share of the indices, the same from loop to loop, so that loops
  // over the same rows find them in that core's caches; who is done early takes over from others.
  template <typename Body>
  void parallel_for(int64_t count, const Body& body) {
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (int64_t i = 0; i < count; ++i) body(i, 0);
      return;
    }
    run(
        count,
        [](const void* context, int64_t index, int worker) {
          (*static_cast<const Body*>(context))(index, worker);
        },
        &body);
  }

 private:
  using Task = void (*)(const void* context, int64_t index, int worker);
  void run(int64_t count, Task task, const void* context);
  void work(int worker);
  void worker_loop(int worker);

  std::vector<std::thread> workers_;
  // Generation of the loop (16 bits), whether workers may join it, how many have. The rest is
  // written by the caller while nobody has joined.
  std::atomic<uint32_t> state_{0};
  std::atomic<bool> stop_{false};
  Task task_ = nullptr;
  const void* context_ = nullptr;
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::vector<Share> shares_;  // one per thread
};

}  // namespace lowrank
