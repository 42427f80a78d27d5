// The table that a device library hands to the engine. Each row catches whatever a launch throws,
// so that no exception crosses the table, and leaves a message for last_error. An error that the
// CUDA runtime keeps reporting (a fault in a kernel) fails every later call of the process.
#include "cuda/plugin.h"

#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

#include "cuda/error.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {
namespace {

// One message per thread: it is read by the thread whose call failed, right after it.
thread_local char message[512];

CudaDevice& as_device(void* handle) { return *static_cast<CudaDevice*>(handle); }

template <typename Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::bad_alloc&) {
    std::snprintf(message, sizeof message, "out of device memory");
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof message, "%s", error.what());
  } catch (...) {
    std::snprintf(message, sizeof message, "unknown failure");
  }
  return 1;
}

template <typename Body>
int on_device(void* handle, const Body& body) {
  return guarded([&] {
    CudaDevice& device = as_device(handle);
    const std::lock_guard lock(device.running);
    if (!device.lost.empty()) throw CudaError(device.lost);
    try {
      runtime::use(device.ordinal);
      device.staged = 0;
      body(device);
    } catch (const DeviceLost& error) {
      device.lost = std::string("the GPU can't be used any more by this process: ") + error.what();
      throw CudaError(device.lost);
    }
  });
}

int open_device(const DeviceOptions* options, void** device, char* error, size_t error_bytes) {
  const int status = guarded([&] { *device = new CudaDevice(*options); });
  if (status != 0 && error_bytes > 0) std::snprintf(error, error_bytes, "%s", message);
  return status;
}

void close_device(void* handle) {
  guarded([&] {
    const std::unique_ptr<CudaDevice> device(&as_device(handle));
    runtime::use(device->ordinal);
  });
}

const char* last_error(void*) { return message; }

int describe(void* handle, DeviceInfo* info) {
  return on_device(handle, [&](CudaDevice& device) {
    *info = {};
    runtime::describe(device.stream, info);
    info->fixed_bytes = device.fixed_bytes();
    if (device.blas)
      std::snprintf(info->library, sizeof info->library, "cuBLASLt %s",
                    device.blas->version().c_str());
    std::snprintf(info->note, sizeof info->note, "%s", device.blas_note.c_str());
  });
}

int allocate(void* handle, size_t bytes, void** pointer) {
  bool out_of_memory = false;
  const int status = on_device(handle, [&](CudaDevice& device) {
    try {
      *pointer = runtime::allocate(device.stream, bytes);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
      DeviceInfo info;
      runtime::describe(device.stream, &info);
      throw std::runtime_error("cannot allocate " + std::to_string(bytes) +
                               " bytes of device memory, " + std::to_string(info.free_bytes) +
                               " are free");
    }
  });
  return out_of_memory ? status : -status;
}

// Also when the device is lost: the memory's books stay right.
void release(void* handle, void* pointer, size_t) {
  guarded([&] {
    CudaDevice& device = as_device(handle);
    const std::lock_guard lock(device.running);
    if (device.lost.empty()) runtime::use(device.ordinal);
    runtime::release(device.stream, pointer);
  });
}

template <auto Function>
int transfer(void* handle, void* to, const void* from, size_t bytes) {
  return on_device(handle, [&](CudaDevice& d) { Function(d.stream, to, from, bytes); });
}

int fill_zero(void* handle, void* to, size_t bytes) {
  return on_device(handle, [&](CudaDevice& d) { runtime::fill_zero(d.stream, to, bytes); });
}

int synchronize(void* handle) {
  return on_device(handle, [&](CudaDevice& d) { runtime::synchronize(d.stream); });
}

int peak(void* handle, PeakKind kind, double seconds, double* rate) {
  return on_device(handle, [&](CudaDevice& d) { *rate = measure_peak(d, kind, seconds); });
}

template <auto Function, typename Op>
int run(void* handle, const Op* op) {
  return on_device(handle, [&](CudaDevice& device) { Function(device, *op); });
}

template <auto Query, typename Shape>
size_t workspace(void*, const Shape* shape) {
  return Query(*shape);
}

Backend make_backend() {
  Backend b{};
  b.abi_version = kBackendAbiVersion;
  b.struct_bytes = sizeof(Backend);
  b.name = "cuda";
  b.open = open_device;
  b.close = close_device;
  b.last_error = last_error;
  b.describe = describe;
  b.allocate = allocate;
  b.release = release;
  b.upload = transfer<runtime::upload>;
  b.download = transfer<runtime::download>;
  b.copy = transfer<runtime::copy>;
  b.fill_zero = fill_zero;
  b.synchronize = synchronize;
  b.measure_peak = peak;
  b.host_memory = runtime::host_memory();
  b.linear_workspace_bytes = workspace<linear_workspace_bytes, LinearShape>;
  b.attention_workspace_bytes = workspace<attention_workspace_bytes, AttentionShape>;
  b.head_loss_workspace_bytes = workspace<head_loss_workspace_bytes, HeadLossShape>;
  b.linear_forward = run<linear_forward, LinearForward>;
  b.linear_backward = run<linear_backward, LinearBackward>;
  b.rms_norm_forward = run<rms_norm_forward, RmsNormForward>;
  b.rms_norm_backward = run<rms_norm_backward, RmsNormBackward>;
  b.layer_norm_forward = run<layer_norm_forward, LayerNormForward>;
  b.layer_norm_backward = run<layer_norm_backward, LayerNormBackward>;
  b.rope = run<rope, Rope>;
  b.gated_activation_forward = run<gated_activation_forward, GatedActivationForward>;
  b.gated_activation_backward = run<gated_activation_backward, GatedActivationBackward>;
  b.attention_forward = run<attention_forward, AttentionForward>;
  b.attention_backward = run<attention_backward, AttentionBackward>;
  b.embedding_forward = run<embedding_forward, EmbeddingForward>;
  b.embedding_backward = run<embedding_backward, EmbeddingBackward>;
  b.head_loss = run<head_loss, HeadLoss>;
  b.adamw = run<adamw, AdamW>;
  b.squared_norm = run<squared_norm, SquaredNorm>;
  b.cast = run<cast, Cast>;
  b.quantize_nf4 = run<quantize_nf4, QuantizeNf4>;
  b.quantize_absmax = run<quantize_absmax, QuantizeAbsmax>;
  b.quantize_int8 = run<quantize_int8, QuantizeInt8>;
  b.dequantize = run<dequantize, Dequantize>;
  return b;
}

}  // namespace

const Backend& backend() {
  static const Backend table = make_backend();
  return table;
}

}  // namespace lowrank::cuda
