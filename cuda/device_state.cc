// Opening and closing a device: its stream, and the fixed memory that no operation allocates.
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
  } catch (...) {
    for (void* memory : {static_cast<void*>(tables), static_cast<void*>(arguments)})
      if (memory) runtime::release(stream, memory);
    if (partials) runtime::release(stream, partials);
    runtime::close(stream);
    throw;
  }
}

CudaDevice::~CudaDevice() {
  runtime::release(stream, tables);
  runtime::release(stream, arguments);
  runtime::release(stream, partials);
  runtime::close(stream);
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
