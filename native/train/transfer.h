// The host's and the device's side of what travels with a micro-batch. Where the device reads host
// memory both are the same bytes and nothing is copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "backend/device.h"

namespace lowrank {

template <typename T>
class TransferBuffer {
 public:
  TransferBuffer() = default;
  TransferBuffer(std::shared_ptr<Device> device, void* device_data, int64_t capacity)
      : device_(std::move(device)), data_(static_cast<T*>(device_data)) {
    if (!device_->backend().host_memory) mirror_.resize(static_cast<size_t>(capacity));
  }

  T* host() { return mirror_.empty() ? data_ : mirror_.data(); }
  T* device() const { return data_; }

  void upload(int64_t count) {
    if (mirror_.empty() || count == 0) return;
    device_->check(device_->backend().upload(device_->handle(), data_, mirror_.data(),
                                             static_cast<size_t>(count) * sizeof(T)),
                   "upload");
  }
  void download(int64_t count) {
    if (mirror_.empty() || count == 0) return;
    device_->check(device_->backend().download(device_->handle(), mirror_.data(), data_,
                                               static_cast<size_t>(count) * sizeof(T)),
                   "download");
  }

 private:
  std::shared_ptr<Device> device_;
  T* data_ = nullptr;
  std::vector<T> mirror_;
};

}  // namespace lowrank
