// The CPU backend with a count of the bytes it holds, and a hook that runs before every head_loss.
#pragma once

#include <atomic>
#include <functional>

#include "backend/device.h"
#include "backend/registry.h"

namespace lowrank::test {

class CountingBackend {
 public:
  static std::shared_ptr<Device> open(int threads = 1) {
    static const Backend backend = make();
    DeviceOptions options;
    options.threads = threads;
    return Device::open(backend, options);
  }
  static int64_t held_bytes() { return held_; }
  static int64_t allocations() { return allocations_; }
  static void before_head_loss(std::function<void()> hook) { hook_ = std::move(hook); }

 private:
  static Backend make() {
    Backend backend = cpu_backend();
    backend.allocate = [](void* device, size_t bytes, void** pointer) {
      held_ += static_cast<int64_t>(bytes);
      ++allocations_;
      return cpu_backend().allocate(device, bytes, pointer);
    };
    backend.release = [](void* device, void* pointer, size_t bytes) {
      held_ -= static_cast<int64_t>(bytes);
      cpu_backend().release(device, pointer, bytes);
    };
    backend.head_loss = [](void* device, const HeadLoss* op) {
      if (hook_) hook_();
      return cpu_backend().head_loss(device, op);
    };
    return backend;
  }

  static inline std::atomic<int64_t> held_{0};
  static inline std::atomic<int64_t> allocations_{0};
  static inline std::function<void()> hook_;
};

}  // namespace lowrank::test
