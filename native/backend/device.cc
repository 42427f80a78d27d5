#include "backend/device.h"

#include "backend/registry.h"
#include "core/error.h"

namespace lowrank {

std::shared_ptr<Device> Device::open(const std::string& name, const DeviceOptions& options) {
  return open(find_backend(name), options);
}

std::shared_ptr<Device> Device::open(const Backend& backend, const DeviceOptions& options) {
  return adopt(backend, open_handle(backend, options));
}

std::shared_ptr<Device> Device::adopt(const Backend& backend, void* handle) {
  return std::shared_ptr<Device>(new Device(backend, handle));
}

void* Device::open_handle(const Backend& backend, const DeviceOptions& options) {
  if (backend.abi_version != kBackendAbiVersion || backend.struct_bytes != sizeof(Backend))
    throw Error(ErrorCode::kBackend,
                std::string("the ") + backend.name + " backend was built for another version",
                backend.name, "install the same version of lowrank and of its device package");
  char message[512] = {};
  void* handle = nullptr;
  if (backend.open(&options, &handle, message, sizeof message) != 0)
    throw Error(ErrorCode::kBackend, message, backend.name);
  return handle;
}

double Device::peak(PeakKind kind, double seconds) const {
  double rate = 0;
  check(backend_->measure_peak(handle_, kind, seconds, &rate), "measure_peak");
  return rate;
}

Device::~Device() { backend_->close(handle_); }

DeviceInfo Device::info() const {
  DeviceInfo info;
  check(backend_->describe(handle_, &info), "describe");
  return info;
}

void Device::check(int status, const char* op) const {
  if (status == 0) return;
  throw Error(ErrorCode::kBackend, std::string("[") + op + "] " + backend_->last_error(handle_),
              backend_->name);
}

Buffer::Buffer(std::shared_ptr<Device> device, size_t bytes)
    : device_(std::move(device)), bytes_(bytes) {
  if (bytes == 0) return;
  if (device_->backend().allocate(device_->handle(), bytes, &data_) != 0)
    throw Error(ErrorCode::kOutOfMemory, device_->backend().last_error(device_->handle()),
                device_->backend().name,
                "lower the batch size or the length, or use block checkpointing");
}

void Buffer::reset() noexcept {
  if (data_) device_->backend().release(device_->handle(), data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
  device_.reset();
}

void Buffer::upload(const void* from, size_t bytes, size_t offset) {
  if (bytes == 0) return;
  device_->check(device_->backend().upload(device_->handle(), as<char>() + offset, from, bytes),
                 "upload");
}

void Buffer::download(void* to, size_t bytes, size_t offset) const {
  if (bytes == 0) return;
  device_->check(device_->backend().download(device_->handle(), to, as<char>() + offset, bytes),
                 "download");
}

void Buffer::zero() {
  if (bytes_ == 0) return;
  device_->check(device_->backend().fill_zero(device_->handle(), data_, bytes_), "fill_zero");
}

}  // namespace lowrank
