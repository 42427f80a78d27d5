// The CPU backend with counts of the bytes it holds and of the times that the host waits for it,
// and hooks that run before and after every head_loss.
#pragma once

#include <atomic>
#include <functional>

#include "backend/device.h"
#include "backend/registry.h"

namespace lowrank::test {

class CountingBackend {
 public:
  static std::shared_ptr<Device> open(int threads = 1) {
    static const Backend backend = make(true);
    DeviceOptions options;
    options.threads = threads;
    return Device::open(backend, options);
  }
  // The same as a device whose memory the host only copies to and from.
  static std::shared_ptr<Device> open_apart() {
    static const Backend backend = make(false);
    return Device::open(backend, {});
  }
  static int64_t held_bytes() { return held_; }
  static int64_t allocations() { return allocations_; }
  // Downloads that follow an operation of a step's end: the next one finds the device idle.
  static int64_t waits() { return waits_; }
  // Whether no such operation came after the last download.
  static bool idle() { return !busy_; }
  static void before_head_loss(std::function<void()> hook) { before_ = std::move(hook); }
  static void after_head_loss(std::function<void(const HeadLoss&)> hook) {
    after_ = std::move(hook);
  }

 private:
  static Backend make(bool host_memory) {
    Backend backend = cpu_backend();
    backend.host_memory = host_memory;
    backend.allocate = [](void* device, size_t bytes, void** pointer) {
      held_ += static_cast<int64_t>(bytes);
      ++allocations_;
      return cpu_backend().allocate(device, bytes, pointer);
    };
    backend.release = [](void* device, void* pointer, size_t bytes) {
      held_ -= static_cast<int64_t>(bytes);
      cpu_backend().release(device, pointer, bytes);
    };
    backend.download = [](void* device, void* to, const void* from, size_t bytes) {
      waits_ += busy_.exchange(false);
      return cpu_backend().download(device, to, from, bytes);
    };
    backend.head_loss = [](void* device, const HeadLoss* op) {
      busy_ = true;
      if (before_) before_();
      const int status = cpu_backend().head_loss(device, op);
      if (after_) after_(*op);
      return status;
    };
    backend.squared_norm = [](void* device, const SquaredNorm* op) {
      busy_ = true;
      return cpu_backend().squared_norm(device, op);
    };
    backend.adamw = [](void* device, const AdamW* op) {
      busy_ = true;
      return cpu_backend().adamw(device, op);
    };
    return backend;
  }

  static inline std::atomic<int64_t> held_{0};
  static inline std::atomic<int64_t> allocations_{0};
  static inline std::atomic<int64_t> waits_{0};
  static inline std::atomic<bool> busy_{false};
  static inline std::function<void()> before_;
  static inline std::function<void(const HeadLoss&)> after_;
};

}  // namespace lowrank::test
