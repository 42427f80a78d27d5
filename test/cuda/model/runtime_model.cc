// cuda/runtime.h over the execution model. Where the environment has LOWRANK_CUDA_MODEL_FAULT=n
// when a device is opened, grid n fails and so does all that comes after it, as when a kernel
// faults.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>

#include "cuda/error.h"
#include "cuda/runtime.h"
#include "model/device_memory.h"

namespace lowrank::cuda::runtime {
namespace {

std::atomic<int64_t> grids_left{-1};  // until the fault; -1: there is none

void check_fault() {
  if (grids_left == 0) throw DeviceLost("a fault in a kernel");
}

}  // namespace

// The number of threads, which means nothing here, seeds the order of threads and blocks.
Stream open(const DeviceOptions& options) {
  if (options.ordinal != 0)
    throw CudaError("there is no GPU " + std::to_string(options.ordinal) + ", only 1");
  const char* fault = std::getenv("LOWRANK_CUDA_MODEL_FAULT");
  grids_left = fault ? std::atoll(fault) : -1;
  model::before_grid = [] {
    if (grids_left > 0) --grids_left;
    check_fault();
  };
  return new ModelStream{static_cast<uint64_t>(options.threads),
                         [](const ModelStream* stream, void (*body)(void*), void* argument) {
                           model::run_grid({1, 1, 1}, 1, 0, stream->seed, body, argument);
                         }};
}
void close(Stream stream) noexcept { delete stream; }
void use(int) { check_fault(); }

void describe(Stream, DeviceInfo* info) {
  std::snprintf(info->name, sizeof info->name, "execution model");
  std::snprintf(info->isa, sizeof info->isa, "cuda");
  info->total_bytes = model::device_memory_bytes();
  info->free_bytes = model::free_device_memory_bytes();
}

// The exact size from the heap, so that the address sanitizer sees the ends.
void* allocate(Stream, size_t bytes) {
  if (model::has_device_memory()) return model::allocate_device_memory(bytes);
  constexpr std::align_val_t kAlignment{64};
  void* pointer = ::operator new(bytes, kAlignment);
  std::memset(pointer, 0, bytes);
  return pointer;
}
void release(Stream, void* pointer) noexcept {
  if (model::has_device_memory())
    model::release_device_memory(pointer);
  else
    ::operator delete (pointer, std::align_val_t{64});
}

void upload(Stream, void* to, const void* from, size_t bytes) {
  const model::DeviceAccess access;
  if (bytes > 0) std::memmove(to, from, bytes);
}
void download(Stream stream, void* to, const void* from, size_t bytes) {
  upload(stream, to, from, bytes);
}
void copy(Stream stream, void* to, const void* from, size_t bytes) {
  upload(stream, to, from, bytes);
}
void fill_zero(Stream, void* to, size_t bytes) {
  const model::DeviceAccess access;
  if (bytes > 0) std::memset(to, 0, bytes);
}
void synchronize(Stream) { check_fault(); }

double time(Stream, void (*work)(void*), void* argument) {
  const auto start = std::chrono::steady_clock::now();
  work(argument);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool host_memory() { return !model::has_device_memory(); }
int processors(Stream) { return 1; }

// Never the system's cuBLASLt, which knows no such stream: only test/cuda/cublaslt_stub.cc.
LibrarySearch cublaslt_search() {
  return {"LOWRANK_CUDA_MODEL_CUBLASLT", {"libcublasLt_stub.so.13", "libcublasLt_stub.so.12"}};
}

}  // namespace lowrank::cuda::runtime
