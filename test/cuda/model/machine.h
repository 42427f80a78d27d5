// Runs a grid of cooperative threads on one CPU core. Blocks run one after the other in an order
// that the seed shuffles; the threads of a block run one at a time up to their next barrier or warp
// operation, again in a shuffled order, so that a result that needs a barrier which isn't there
// comes out wrong or differs between seeds. Shared memory is allocated for each block with its
// exact size and filled with NaN bits. Throws ModelError on what a GPU would leave undefined:
//   - a thread ends or waits elsewhere while others of its block wait at a barrier
//   - a warp operation whose lanes disagree on mask or place, or name a lane that has ended
//   - a thread that ends while its asynchronous copies are under way
//   - an index outside a shared array, more than a device has of threads or shared memory
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace lowrank::cuda::model {

struct ModelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Where in the source a thread waits (clang 14 lacks std::source_location).
struct SourcePlace {
  const char* file = "";
  int line = 0;
  static SourcePlace current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

inline constexpr unsigned kWarpSize = 32;
inline constexpr unsigned kMaxThreads = 1024;
// What every device of compute capability 8.0 and newer grants a block that asks (sm_86: 99 KB).
inline constexpr size_t kMaxSharedBytes = size_t{99} << 10;

// Calls body(argument) for every thread of every block; returns when all have ended.
void run_grid(Index grid, unsigned threads, size_t shared_bytes, uint64_t seed, void (*body)(void*),
              void* argument);

// Called before each grid; may throw.
extern void (*before_grid)();

// ---- From inside a thread -----------------------------------------------------------------------

struct ThreadPlace {
  unsigned thread = 0, threads = 0;
  Index block, grid;
};
// The thread that runs; set by every switch.
extern thread_local constinit const ThreadPlace* running_place;
inline const ThreadPlace& here() { return *running_place; }

void* shared_memory(size_t bytes);
void barrier(SourcePlace place);

// The lanes of `mask` meet: each gives `bytes` of input and gets as much of output; the last one to
// come calls combine(inputs, outputs), whose rows are kRowBytes apart, one per lane.
inline constexpr size_t kRowBytes = 64;
using Combine = void (*)(const unsigned char* inputs, unsigned char* outputs, uint32_t mask);
void meet(uint32_t mask, const void* input, void* output, size_t in_bytes, size_t out_bytes,
          Combine combine, SourcePlace place);

// Asynchronous copies of 16 bytes to shared memory, by the calling thread. Their target holds NaN
// bits from now on until an await lets their group through, however late that is: what is read too
// early, or was still needed, comes out wrong.
void copy_later(void* to, const void* from);
void commit_copies();
void await_copies(unsigned groups_left);

[[noreturn]] void fail(const std::string& message);

// Figures of all grids so far.
struct Statistics {
  uint64_t grids = 0, blocks = 0, barriers = 0, warp_operations = 0;
};
Statistics statistics();

}  // namespace lowrank::cuda::model
