#include "backend/device.h"

#include <charconv>
#include <string_view>

#include "backend/registry.h"
#include "core/error.h"

namespace lowrank {

namespace {

constexpr const char* kDeviceHint = "use cpu, cuda, cuda:N or auto; `lowrank doctor` lists devices";

struct DeviceName {
  std::string backend;
  int32_t ordinal = -1;  // -1: as the options say
};

DeviceName parse_device_name(const std::string& name) {
  if (name == "cpu" || name == "cuda") return {name};
  constexpr std::string_view kPrefix = "cuda:";
  int32_t ordinal = 0;
  const char* end = name.data() + name.size();
  if (name.compare(0, kPrefix.size(), kPrefix) == 0) {
    const auto [stop, error] = std::from_chars(name.data() + kPrefix.size(), end, ordinal);
    if (error == std::errc() && stop == end && ordinal >= 0) return {"cuda", ordinal};
  }
  throw Error(ErrorCode::kInvalidArgument, "there is no device called '" + name + "'", "device",
              kDeviceHint);
}

}  // namespace

std::shared_ptr<Device> Device::open(const std::string& name, const DeviceOptions& options) {
  const Opened opened = open_handle(name, options);
  return adopt(*opened.backend, opened.handle);
}

std::shared_ptr<Device> Device::open(const Backend& backend, const DeviceOptions& options) {
  return adopt(backend, open_handle(backend, options).handle);
}

std::shared_ptr<Device> Device::adopt(const Backend& backend, void* handle) {
  return std::shared_ptr<Device>(new Device(backend, handle));
}

Device::Opened Device::open_handle(const std::string& name, const DeviceOptions& options) {
  if (name == "auto") {
    if (options.isa) return open_handle("cpu", options);
    try {
      return open_handle("cuda", options);
    } catch (const Error&) {
      return open_handle("cpu", options);
    }
  }
  const DeviceName wanted = parse_device_name(name);
  if (wanted.backend != "cpu" && options.isa)
    throw Error(ErrorCode::kInvalidArgument,
                std::string("the instruction set ") + options.isa + " isn't one of " + name, "isa",
                "leave the instruction set out, or use the device cpu");
  DeviceOptions chosen = options;
  if (wanted.ordinal >= 0) chosen.ordinal = wanted.ordinal;
  return open_handle(find_backend(wanted.backend), chosen);
}

Device::Opened Device::open_handle(const Backend& backend, const DeviceOptions& options) {
  if (backend.abi_version != kBackendAbiVersion || backend.struct_bytes != sizeof(Backend))
    throw Error(ErrorCode::kBackend,
                std::string("the ") + backend.name + " backend was built for another version",
                backend.name, "install the same version of lowrank and of its device package");
  char message[512] = {};
  void* handle = nullptr;
  if (backend.open(&options, &handle, message, sizeof message) != 0)
    throw Error(ErrorCode::kBackend, message,
                std::string(backend.name) + ":" + std::to_string(options.ordinal), kDeviceHint);
  return {&backend, handle};
}

double Device::peak(PeakKind kind, double seconds) const {
  double rate = 0;
  check(backend_->measure_peak(handle_, kind, seconds, &rate), "measure_peak");
  return rate;
}

Device::~Device() { backend_->close(handle_); }

int64_t row_stride(const Device& device, DType dtype, int64_t cols) {
  constexpr int64_t kLineBytes = 64;
  const auto size = static_cast<int64_t>(dtype_size(dtype));
  const int64_t crowded = device.backend().crowded_row_bytes;
  return crowded > 0 && cols * size % crowded == 0 ? cols + kLineBytes / size : cols;
}

uint64_t activation_bytes(const Device& device, DType dtype, int64_t rows, int64_t cols) {
  return static_cast<uint64_t>(rows * row_stride(device, dtype, cols)) * dtype_size(dtype);
}

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
  const int status = device_->backend().allocate(device_->handle(), bytes, &data_);
  if (status < 0) device_->check(status, "allocate");
  if (status > 0)
    throw Error(
        ErrorCode::kOutOfMemory, device_->backend().last_error(device_->handle()),
        device_->backend().name,
        "use a smaller batch, a shorter maximum length, block checkpointing or a quantized base");
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
