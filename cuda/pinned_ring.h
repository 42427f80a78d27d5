// Copies to the device through page-locked buffers, so that a copy neither waits for the device nor
// keeps the caller's memory: the host is at most kSlots pieces ahead. One thread at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "cuda/error.h"

namespace lowrank::cuda {

class PinnedRing {
 public:
  static constexpr size_t kSlots = 64, kSlotBytes = size_t{256} << 10;

  PinnedRing() {
    check_cuda(cudaMallocHost(reinterpret_cast<void**>(&memory_), kSlots * kSlotBytes),
               "page-locked memory");
    try {
      for (cudaEvent_t& event : events_)
        check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    } catch (...) {
      release();
      throw;
    }
  }
  ~PinnedRing() { release(); }
  PinnedRing(const PinnedRing&) = delete;
  PinnedRing& operator=(const PinnedRing&) = delete;

  void upload(cudaStream_t stream, void* to, const void* from, size_t bytes) {
    for (size_t done = 0; done < bytes; done += kSlotBytes) {
      const size_t slot = next_++ % kSlots, size = std::min(kSlotBytes, bytes - done);
      char* piece = memory_ + slot * kSlotBytes;
      check_cuda(cudaEventSynchronize(events_[slot]), "upload");  // the slot's last copy
      std::memcpy(piece, static_cast<const char*>(from) + done, size);
      check_cuda(cudaMemcpyAsync(static_cast<char*>(to) + done, piece, size, cudaMemcpyHostToDevice,
                                 stream),
                 "upload");
      check_cuda(cudaEventRecord(events_[slot], stream), "upload");
    }
  }

 private:
  void release() noexcept {
    for (cudaEvent_t event : events_)
      if (event) cudaEventDestroy(event);
    cudaFreeHost(memory_);
  }

  char* memory_ = nullptr;
  cudaEvent_t events_[kSlots] = {};
  size_t next_ = 0;
};

}  // namespace lowrank::cuda
