// Memory of a modelled device that is its own: one stretch of addresses that faults on every access
// but those of grids and of the runtime's copies. Without it device memory is the heap's, where the
// address sanitizer sees the ends of every allocation. LOWRANK_CUDA_MODEL_MEMORY in the environment
// is the device's size in bytes.
#pragma once

#include <cstddef>

namespace lowrank::cuda::model {

// Before the first device is opened.
void use_device_memory();
bool has_device_memory();

void* allocate_device_memory(size_t bytes);  // zero-filled; throws std::bad_alloc
void release_device_memory(void* pointer) noexcept;
size_t device_memory_bytes();
size_t free_device_memory_bytes();

// While one lives, device memory can be accessed.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace lowrank::cuda::model
