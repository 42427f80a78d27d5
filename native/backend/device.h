// A device that is open: its backend's table, its handle, and buffers that free themselves.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "backend/backend.h"

namespace lowrank {

// Any thread may use it: operations of one device run one after the other, so models, sessions and
// generators that share a device are safe in threads of their own. Devices don't wait for each
// other.
class Device {
 public:
  // `name` is "cpu", "cuda" (the first GPU), "cuda:N", or "auto": CUDA where its plug-in and a GPU
  // that it can use are there, else the CPU; an instruction set in the options asks for the CPU.
  // Throws Error{kInvalidArgument} for another name, Error{kUnsupported} without the plug-in, and
  // Error{kBackend} when the device can't be used. Threads mean nothing to a GPU.
  static std::shared_ptr<Device> open(const std::string& name, const DeviceOptions& options = {});
  // For tests and plug-ins: a table that isn't registered.
  static std::shared_ptr<Device> open(const Backend& backend, const DeviceOptions& options = {});

  // In two parts, for a table around another one: the handle of an open device, and a device of a
  // handle that `backend.close` will close. `backend` must live until then.
  struct Opened {
    const Backend* backend = nullptr;
    void* handle = nullptr;
  };
  static Opened open_handle(const std::string& name, const DeviceOptions& options);
  static Opened open_handle(const Backend& backend, const DeviceOptions& options);
  static std::shared_ptr<Device> adopt(const Backend& backend, void* handle);

  // What the device reaches at best, measured now; see PeakKind. Takes about `seconds`.
  double peak(PeakKind kind, double seconds = 0.2) const;

  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const Backend& backend() const { return *backend_; }
  void* handle() const { return handle_; }
  DeviceInfo info() const;

  // Throws Error{kBackend} with the device's message when `status` isn't 0. `op` begins the
  // message.
  void check(int status, const char* op) const;

 private:
  Device(const Backend& backend, void* handle) : backend_(&backend), handle_(handle) {}
  const Backend* backend_;
  void* handle_;
};

// Elements from row to row of activations of `cols` columns on the device.
int64_t row_stride(const Device& device, DType dtype, int64_t cols);
// Bytes of `rows` of them.
uint64_t activation_bytes(const Device& device, DType dtype, int64_t rows, int64_t cols);

// Device memory, 64-byte aligned and zero-filled.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<Device> device, size_t bytes);
  ~Buffer() { reset(); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void reset() noexcept;
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

  void upload(const void* from, size_t bytes, size_t offset = 0);
  void download(void* to, size_t bytes, size_t offset = 0) const;
  void zero();

 private:
  void swap(Buffer& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace lowrank
