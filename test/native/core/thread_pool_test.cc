#include "core/thread_pool.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "support/test.h"

namespace lowrank {
namespace {

TEST(every_index_runs_once) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    CHECK_EQ(pool.size(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<int> seen(static_cast<size_t>(count));  // unsynchronised on purpose
      std::vector<int> workers(static_cast<size_t>(count));
      pool.parallel_for(count, [&](int64_t index, int worker) {
        ++seen[static_cast<size_t>(index)];
        workers[static_cast<size_t>(index)] = worker;
      });
      for (int times : seen) CHECK_EQ(times, 1);
      for (int worker : workers) CHECK(worker >= 0 && worker < threads);
    }
  }
}

TEST(a_worker_number_is_never_shared) {
  ThreadPool pool(4);
  std::atomic<int> inside[4] = {};
  std::atomic<int> clashes{0};
  for (int round = 0; round < 200; ++round)
    pool.parallel_for(16, [&](int64_t, int worker) {
      if (inside[worker].fetch_add(1) != 0) ++clashes;
      inside[worker].fetch_sub(1);
    });
  CHECK_EQ(clashes.load(), 0);
}

TEST(results_are_visible_to_the_caller_and_to_the_next_loop) {
  ThreadPool pool(3);
  std::vector<int64_t> values(257, 1);
  for (int round = 0; round < 300; ++round)
    pool.parallel_for(257, [&](int64_t i, int) {
      values[static_cast<size_t>(i)] += values[static_cast<size_t>(i)] % 7;
    });
  for (int64_t value : values) CHECK_EQ(value, values.front());
}

TEST(pools_come_and_go) {
  std::vector<std::thread> owners;
  std::atomic<int64_t> sum{0};
  for (int owner = 0; owner < 3; ++owner)
    owners.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        ThreadPool pool(3);
        if (round % 2) pool.parallel_for(10, [&](int64_t i, int) { sum += i; });
      }
    });
  for (std::thread& owner : owners) owner.join();
  CHECK_EQ(sum.load(), 3 * 10 * 45);
}

}  // namespace
}  // namespace lowrank
