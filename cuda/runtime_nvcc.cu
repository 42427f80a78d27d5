// cuda/runtime.h over the CUDA runtime.
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include "cuda/pinned_ring.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {

void check_cuda(int status, const char* what) {
  if (status == cudaSuccess) return;
  const auto error = static_cast<cudaError_t>(status);
  const std::string message =
      std::string(what) + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
  // An error that isn't of this call alone is still there once it has been taken.
  cudaGetLastError();
  if (cudaDeviceSynchronize() == cudaSuccess) throw CudaError(message);
  cudaGetLastError();
  throw DeviceLost(message);
}

namespace runtime {
namespace {

constexpr int kMinMajor = 8;  // bf16 matrix instructions

cudaDeviceProp properties(int ordinal) {
  cudaDeviceProp found;
  check_cuda(cudaGetDeviceProperties(&found, ordinal), "properties of a GPU");
  return found;
}

int current_device() {
  int ordinal = 0;
  check_cuda(cudaGetDevice(&ordinal), "the GPU in use");
  return ordinal;
}

std::string version_name(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Throws unless there is a driver that this runtime can use.
void check_driver() {
  int driver = 0, runtime = 0;
  check_cuda(cudaRuntimeGetVersion(&runtime), "version of the CUDA runtime");
  // 0: there is none.
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    throw CudaError("no NVIDIA driver is installed");
  if (driver / 1000 < runtime / 1000)
    throw CudaError("the NVIDIA driver is too old: it is for CUDA " + version_name(driver) + ", " +
                    version_name(runtime) + " is needed");
}

// The ring of each open stream.
class Rings {
 public:
  void add(Stream stream) {
    auto ring = std::make_unique<PinnedRing>();
    const std::lock_guard lock(mutex_);
    rings_[stream] = std::move(ring);
  }
  void remove(Stream stream) {
    const std::lock_guard lock(mutex_);
    rings_.erase(stream);
  }
  PinnedRing& of(Stream stream) {
    const std::lock_guard lock(mutex_);
    return *rings_.at(stream);
  }

 private:
  std::mutex mutex_;
  std::map<Stream, std::unique_ptr<PinnedRing>> rings_;
};

Rings& rings() {
  static Rings& all = *new Rings();
  return all;
}

}  // namespace

Stream open(const DeviceOptions& options) {
  check_driver();
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess && status != cudaErrorNoDevice)
    throw CudaError(std::string("the NVIDIA driver can't be used: ") + cudaGetErrorString(status));
  if (count == 0) throw CudaError("the NVIDIA driver sees no GPU");
  if (options.ordinal < 0 || options.ordinal >= count)
    throw CudaError("there is no GPU " + std::to_string(options.ordinal) + ", only " +
                    std::to_string(count));
  const cudaDeviceProp device = properties(options.ordinal);
  if (device.major < kMinMajor)
    throw CudaError(std::string(device.name) + " has compute capability " +
                    std::to_string(device.major) + "." + std::to_string(device.minor) +
                    ", 8.0 or newer is needed");
  use(options.ordinal);
  Stream stream;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  try {
    rings().add(stream);
  } catch (...) {
    cudaStreamDestroy(stream);
    throw;
  }
  return stream;
}

void close(Stream stream) noexcept {
  cudaStreamSynchronize(stream);  // what its ring still copies
  rings().remove(stream);
  cudaStreamDestroy(stream);
}

void use(int ordinal) { check_cuda(cudaSetDevice(ordinal), "choice of a GPU"); }

void describe(Stream, DeviceInfo* info) {
  const cudaDeviceProp device = properties(current_device());
  std::snprintf(info->name, sizeof info->name, "%s", device.name);
  std::snprintf(info->isa, sizeof info->isa, "sm_%d%d", device.major, device.minor);
  size_t free_bytes = 0, total_bytes = 0;
  check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes), "free device memory");
  info->free_bytes = free_bytes;
  info->total_bytes = total_bytes;
}

void* allocate(Stream stream, size_t bytes) {
  void* pointer = nullptr;
  const cudaError_t status = cudaMalloc(&pointer, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it isn't sticky
    throw std::bad_alloc();
  }
  check_cuda(status, "allocation of device memory");
  check_cuda(cudaMemsetAsync(pointer, 0, bytes, stream), "filling of device memory");
  return pointer;
}

// cudaFree waits for the device, so nothing that runs loses its memory.
void release(Stream, void* pointer) noexcept { cudaFree(pointer); }

void upload(Stream stream, void* to, const void* from, size_t bytes) {
  rings().of(stream).upload(stream, to, from, bytes);
}

void download(Stream stream, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "download");
  synchronize(stream);
}

void copy(Stream stream, void* to, const void* from, size_t bytes) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "copy");
}

void fill_zero(Stream stream, void* to, size_t bytes) {
  check_cuda(cudaMemsetAsync(to, 0, bytes, stream), "filling of device memory");
}

void synchronize(Stream stream) { check_cuda(cudaStreamSynchronize(stream), "work on the GPU"); }

double time(Stream stream, void (*work)(void*), void* argument) {
  struct Event {
    cudaEvent_t event = nullptr;
    Event() { check_cuda(cudaEventCreate(&event), "event"); }
    ~Event() { cudaEventDestroy(event); }
  } begin, end;
  check_cuda(cudaEventRecord(begin.event, stream), "event");
  work(argument);
  check_cuda(cudaEventRecord(end.event, stream), "event");
  check_cuda(cudaEventSynchronize(end.event), "work on the GPU");
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, begin.event, end.event), "event");
  return static_cast<double>(milliseconds) / 1000;
}

bool host_memory() { return false; }
int processors(Stream) { return properties(current_device()).multiProcessorCount; }

LibrarySearch cublaslt_search() {
  return {"LOWRANK_CUBLASLT", {"libcublasLt.so.13", "libcublasLt.so.12"}};
}

}  // namespace runtime
}  // namespace lowrank::cuda
