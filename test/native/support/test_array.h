// A flat array in device memory, copied there and back: tests may not assume that the host can read
// a device's memory.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "backend/device.h"

namespace lowrank::test {

template <typename T>
class TestArray {
 public:
  TestArray(std::shared_ptr<Device> device, const std::vector<T>& values)
      : count_(values.size()), buffer_(std::move(device), values.size() * sizeof(T)) {
    buffer_.upload(values.data(), values.size() * sizeof(T));
  }
  TestArray(std::shared_ptr<Device> device, const T* values, size_t count)
      : TestArray(std::move(device), std::vector<T>(values, values + count)) {}
  T* data() const { return buffer_.as<T>(); }
  void set(const std::vector<T>& values) {
    buffer_.upload(values.data(), values.size() * sizeof(T));
  }
  std::vector<T> values() const {
    std::vector<T> all(count_);
    buffer_.download(all.data(), count_ * sizeof(T));
    return all;
  }

 private:
  size_t count_;
  Buffer buffer_;
};

}  // namespace lowrank::test
