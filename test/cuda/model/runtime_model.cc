// cuda/runtime.h over host memory and the execution model.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "cuda/runtime.h"
#include "model/device_memory.h"

namespace lowrank::cuda::runtime {

// The number of threads, which means nothing here, seeds the order of threads and blocks.
Stream open(const DeviceOptions& options) {
  return new ModelStream{static_cast<uint64_t>(options.threads)};
}
void close(Stream stream) noexcept { delete stream; }
void use(int) {}

void describe(Stream, DeviceInfo* info) {
  std::snprintf(info->name, sizeof info->name, "execution model");
  std::snprintf(info->isa, sizeof info->isa, "cuda");
  info->total_bytes = info->free_bytes = uint64_t{1} << 32;
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
void synchronize(Stream) {}

double time(Stream, void (*work)(void*), void* argument) {
  const auto start = std::chrono::steady_clock::now();
  work(argument);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool host_memory() { return !model::has_device_memory(); }
int processors(Stream) { return 1; }

}  // namespace lowrank::cuda::runtime
