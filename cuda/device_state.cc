// Opening and closing a device: its stream, and the fixed memory that no operation allocates.
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "core/dynamic_map.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {

CudaDevice::CudaDevice(const DeviceOptions& options)
    : ordinal(options.ordinal), stream(runtime::open(options)) {
  try {
    tables = static_cast<Tables*>(runtime::allocate(stream, sizeof(Tables)));
    arguments = static_cast<char*>(runtime::allocate(stream, kArgumentBytes));
    partials = static_cast<double*>(runtime::allocate(stream, kPartials * sizeof(double)));
    Tables filled;
    filled.signed_map = signed_dynamic_map();
    filled.unsigned_map = unsigned_dynamic_map();
    runtime::upload(stream, tables, &filled, sizeof filled);
    open_cublaslt();
  } catch (...) {
    release_all();
    throw;
  }
}

CudaDevice::~CudaDevice() { release_all(); }

void CudaDevice::release_all() noexcept {
  for (void* memory : {static_cast<void*>(tables), static_cast<void*>(arguments),
                       static_cast<void*>(partials), blas_workspace})
    if (memory) runtime::release(stream, memory);
  blas.reset();  // its work has ended: releasing waits for it
  runtime::close(stream);
}

// Nothing that is wrong with the library is an error of the device.
void CudaDevice::open_cublaslt() {
  constexpr int64_t kLeastExtent = 128;  // a tile of our own kernel; not measured
  const char* least = std::getenv("LOWRANK_CUBLASLT_MIN");
  least_library_extent = least && std::atoll(least) > 0 ? std::atoll(least) : kLeastExtent;
  blas = Cublaslt::open(&blas_note);
  if (!blas) return;
  try {
    blas_workspace = runtime::allocate(stream, Cublaslt::kWorkspaceBytes);
  } catch (const std::bad_alloc&) {
    blas.reset();
    blas_note = "cuBLASLt isn't used: too little device memory is free for its workspace of 32 MiB";
  }
}

const void* CudaDevice::stage_bytes(const void* from, size_t bytes) {
  constexpr size_t kAlignment = 16;
  if (staged + bytes > kArgumentBytes)
    throw std::length_error("an operation's list of tensors or adapters is too long");
  char* to = arguments + staged;
  staged += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (bytes > 0) runtime::upload(stream, to, from, bytes);
  return to;
}

}  // namespace lowrank::cuda
