// An open CPU device: the worker threads, the chosen kernels, and scratch memory of fixed size that
// is allocated once at open so that no operation ever allocates.
#pragma once

#include <cstddef>
#include <mutex>

#include "core/page_slabs.h"
#include "core/thread_pool.h"
#include "cpu/isa.h"
#include "cpu/kernel_table.h"

namespace lowrank::cpu {

// Per-thread scratch. A kernel may use all of it within one parallel_for body and must not expect
// anything to survive between bodies. Kernel authors raise it to the largest need, a whole number
// of huge pages, so that every thread's part begins at one.
inline constexpr size_t kThreadScratchBytes = size_t{4} << 20;
// One block for the whole device, for what all workers of one operation share (packed panels).
inline constexpr size_t kSharedScratchBytes = size_t{1} << 20;

struct CpuDevice {
  // `request` and `threads` as in DeviceOptions. Throws Error{kUnsupported} or {kOutOfMemory}.
  CpuDevice(int threads, const char* request);
  ~CpuDevice();
  CpuDevice(const CpuDevice&) = delete;
  CpuDevice& operator=(const CpuDevice&) = delete;

  // 64-byte aligned; `worker` is the second argument of a parallel_for body.
  void* thread_scratch(int worker) const {
    return scratch + static_cast<size_t>(worker) * kThreadScratchBytes;
  }
  void* shared_scratch() const {
    return scratch + static_cast<size_t>(pool.size()) * kThreadScratchBytes;
  }
  size_t scratch_bytes() const {
    return static_cast<size_t>(pool.size()) * kThreadScratchBytes + kSharedScratchBytes;
  }

  Isa isa;
  // Where kernels whose speed is the memory's ask for it ahead (isa.h).
  const bool asks_second_cache = cpu::asks_second_cache();
  // Held by the operation that runs: pool and scratch serve one at a time.
  std::mutex running;
  ThreadPool pool;
  KernelTable kernels;
  KernelTable reference;  // what a kernel falls back to
  char* scratch = nullptr;
  PageSlabs slabs;
};

}  // namespace lowrank::cpu
