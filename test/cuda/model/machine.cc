#include "model/machine.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "core/random.h"
#include "model/device_memory.h"
#include "model/fiber.h"

namespace lowrank::cuda::model {

thread_local constinit const ThreadPlace* running_place = nullptr;
void (*before_grid)() = nullptr;

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = size_t{512} << 10;
#else
constexpr size_t kStackBytes = size_t{128} << 10;
#endif

enum class State { kReady, kAtBarrier, kInWarp, kEnded };

std::string name_of(SourcePlace place) {
  return std::string(place.file) + ":" + std::to_string(place.line);
}

struct Copy {
  void* to;
  const void* from;
  uint64_t group;
};

struct Thread {
  ThreadPlace place;
  State state = State::kReady;
  SourcePlace waits_at;
  std::vector<Copy> copies;  // under way, oldest first
  uint64_t groups = 0;       // committed so far
};

struct Warp {
  uint32_t arrived = 0, mask = 0;
  size_t in_bytes = 0;
  Combine combine = nullptr;
  SourcePlace place;
  alignas(16) unsigned char inputs[kWarpSize * kRowBytes];
  alignas(16) unsigned char outputs[kWarpSize * kRowBytes];
};

// Numbers for shuffling: a small generator (Knuth's MMIX constants), so that a seed names one
// order.
struct Shuffler {
  uint64_t state = 0;
  unsigned below(unsigned count) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<unsigned>((state >> 32) * count >> 32);
  }
  template <typename T>
  void shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i)
      std::swap(items[i - 1], items[below(static_cast<unsigned>(i))]);
  }
};

struct Machine {
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char, void (*)(void*)> shared{nullptr, std::free};
  size_t shared_bytes = 0;
  unsigned running = 0, ended = 0, at_barrier = 0;
  bool inside = false;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::string error;
  Statistics statistics;

  Thread& current() { return threads[running]; }
  void wait(State state, SourcePlace place) {
    current().state = state;
    current().waits_at = place;
    fibers[running]->leave();
  }
  void run_block(const ThreadPlace& block, Shuffler& shuffler);
  void check_stuck();
};

// One per host thread, made at its first grid.
thread_local constinit Machine* own_machine = nullptr;

Machine& machine() { return *own_machine; }

void thread_body(void*) {
  Machine& m = machine();
  try {
    m.body(m.argument);
    if (!m.current().copies.empty()) fail("a thread ends while its copies are under way");
  } catch (const std::exception& error) {
    if (m.error.empty()) m.error = error.what();
  }
  m.current().state = State::kEnded;
  ++m.ended;
}

// Called when every live thread waits.
void Machine::check_stuck() {
  const Thread* first = nullptr;
  for (const Thread& thread : threads) {
    if (thread.state == State::kInWarp)
      throw ModelError("thread " + std::to_string(thread.place.thread) + " waits at " +
                       name_of(thread.waits_at) + " for lanes of its warp that don't come");
    if (thread.state != State::kAtBarrier) continue;
    if (!first) first = &thread;
    if (thread.waits_at.line != first->waits_at.line ||
        std::strcmp(thread.waits_at.file, first->waits_at.file) != 0)
      throw ModelError("divergent barrier: threads wait at " + name_of(first->waits_at) + " and " +
                       name_of(thread.waits_at));
  }
  if (ended > 0)
    throw ModelError("divergent barrier: " + std::to_string(ended) +
                     " threads have ended while others wait at " + name_of(first->waits_at));
}

void Machine::run_block(const ThreadPlace& block, Shuffler& shuffler) {
  threads.assign(block.threads, {});
  warps.resize((block.threads + kWarpSize - 1) / kWarpSize);
  for (Warp& warp : warps) warp.arrived = 0;
  shared.reset(static_cast<unsigned char*>(std::malloc(shared_bytes ? shared_bytes : 1)));
  std::memset(shared.get(), 0xff, shared_bytes);
  ended = at_barrier = 0;
  while (fibers.size() < block.threads) fibers.push_back(std::make_unique<Fiber>(kStackBytes));
  std::vector<unsigned> order;
  for (unsigned i = 0; i < block.threads; ++i) {
    threads[i].place = block;
    threads[i].place.thread = i;
    fibers[i]->reset(thread_body, nullptr);
    order.push_back(i);
  }
  while (ended < block.threads) {
    shuffler.shuffle(order);
    bool moved = false;
    for (unsigned i : order) {
      if (threads[i].state != State::kReady) continue;
      moved = true;
      running = i;
      running_place = &threads[i].place;
      fibers[i]->enter();
      if (!error.empty()) throw ModelError(std::exchange(error, {}));
    }
    if (moved) continue;
    check_stuck();
    ++statistics.barriers;
    at_barrier = 0;
    for (Thread& thread : threads) thread.state = State::kReady;
  }
}

}  // namespace

void run_grid(Index grid, unsigned threads, size_t shared_bytes, uint64_t seed, void (*body)(void*),
              void* argument) {
  static thread_local std::unique_ptr<Machine> owner;
  if (!owner) {
    owner = std::make_unique<Machine>();
    own_machine = owner.get();
  }
  Machine& m = machine();
  if (m.inside) throw ModelError("a grid within a grid");
  if (threads == 0 || threads > kMaxThreads)
    throw ModelError("a block of " + std::to_string(threads) + " threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535)
    throw ModelError("a grid that no device runs");
  if (shared_bytes > kMaxSharedBytes)
    throw ModelError(std::to_string(shared_bytes) + " bytes of shared memory in a block");
  if (before_grid) before_grid();
  m.body = body;
  m.argument = argument;
  m.shared_bytes = shared_bytes;
  m.inside = true;
  m.error.clear();
  struct Leave {
    Machine& m;
    ~Leave() { m.inside = false; }
  } leave{m};
  const DeviceAccess access;
  ++m.statistics.grids;
  Shuffler shuffler{random_key(seed, RandomUse::kTest, m.statistics.grids)};
  std::vector<Index> blocks;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) blocks.push_back({x, y, z});
  shuffler.shuffle(blocks);
  for (const Index& block : blocks) {
    ++m.statistics.blocks;
    m.run_block({0, threads, block, grid}, shuffler);
  }
}

void* shared_memory(size_t bytes) {
  Machine& m = machine();
  if (bytes > m.shared_bytes)
    fail("the kernel uses " + std::to_string(bytes) + " bytes of shared memory, the launch has " +
         std::to_string(m.shared_bytes));
  return m.shared.get();
}

void barrier(SourcePlace place) {
  Machine& m = machine();
  ++m.at_barrier;
  m.wait(State::kAtBarrier, place);
}

void meet(uint32_t mask, const void* input, void* output, size_t in_bytes, size_t out_bytes,
          Combine combine, SourcePlace place) {
  Machine& m = machine();
  const unsigned thread = m.running, lane = thread % kWarpSize;
  Warp& warp = m.warps[thread / kWarpSize];
  if (!(mask >> lane & 1)) fail(name_of(place) + ": the mask lacks the lane that calls");
  const unsigned first = thread - lane;
  for (unsigned i = 0; i < kWarpSize && warp.arrived == 0; ++i)
    if ((mask >> i & 1) &&
        (first + i >= m.threads.size() || m.threads[first + i].state == State::kEnded))
      fail(name_of(place) + ": the mask names lane " + std::to_string(i) + ", which has ended");
  if (warp.arrived == 0) {
    warp.mask = mask;
    warp.combine = combine;
    warp.in_bytes = in_bytes;
    warp.place = place;
    // Lanes that don't take part have no value.
    if (mask != 0xffffffffu) std::memset(warp.inputs, 0xff, sizeof warp.inputs);
  } else if (warp.mask != mask || warp.combine != combine || warp.in_bytes != in_bytes ||
             warp.place.line != place.line) {
    fail("lanes of a warp disagree: " + name_of(warp.place) + " and " + name_of(place));
  }
  std::memcpy(warp.inputs + lane * kRowBytes, input, in_bytes);
  warp.arrived |= 1u << lane;
  if (warp.arrived != mask) {
    m.wait(State::kInWarp, place);
  } else {
    combine(warp.inputs, warp.outputs, mask);
    ++m.statistics.warp_operations;
    warp.arrived = 0;
    for (unsigned i = 0; i < kWarpSize; ++i)
      if (mask >> i & 1) m.threads[first + i].state = State::kReady;
  }
  std::memcpy(output, warp.outputs + lane * kRowBytes, out_bytes);
}

void copy_later(void* to, const void* from) {
  Thread& thread = machine().current();
  std::memset(to, 0xff, 16);
  thread.copies.push_back({to, from, thread.groups});
}

void commit_copies() { ++machine().current().groups; }

void await_copies(unsigned groups_left) {
  Thread& thread = machine().current();
  size_t done = 0;
  for (; done < thread.copies.size(); ++done) {
    const Copy& copy = thread.copies[done];
    if (copy.group + groups_left >= thread.groups) break;
    std::memcpy(copy.to, copy.from, 16);
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<long>(done));
}

void fail(const std::string& message) { throw ModelError(message); }

Statistics statistics() { return own_machine ? own_machine->statistics : Statistics{}; }

}  // namespace lowrank::cuda::model
