// The CPU backend's rows of the backend table. Each row catches whatever the kernel throws, so that
// no exception crosses the table, and leaves a message for last_error.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <new>

#include "backend/registry.h"
#include "core/clip_scale.h"
#include "core/error.h"
#include "core/os.h"
#include "cpu/cpu_device.h"
#include "cpu/peak.h"

namespace lowrank {
namespace cpu {

CpuDevice::CpuDevice(int threads, const char* request)
    : isa(choose_isa(request)),
      pool(threads),
      kernels(reference_table()),
      reference(reference_table()) {
  register_kernels(isa, kernels);
  scratch = static_cast<char*>(os::allocate_pages(scratch_bytes()));
}

CpuDevice::~CpuDevice() { os::free_pages(scratch, scratch_bytes()); }

namespace {

// One message per thread: it is read by the thread whose call failed, right after it.
thread_local char message[512];

CpuDevice& as_device(void* device) { return *static_cast<CpuDevice*>(device); }

template <typename Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::bad_alloc&) {
    std::snprintf(message, sizeof message, "out of memory");
  } catch (const std::exception& error) {
    std::snprintf(message, sizeof message, "%s", error.what());
  } catch (...) {
    std::snprintf(message, sizeof message, "unknown failure");
  }
  return 1;
}

int open_device(const DeviceOptions* options, void** device, char* error, size_t error_bytes) {
  const int status = guarded([&] { *device = new CpuDevice(options->threads, options->isa); });
  if (status != 0 && error_bytes > 0) std::snprintf(error, error_bytes, "%s", message);
  return status;
}

void close_device(void* device) { delete static_cast<CpuDevice*>(device); }

const char* last_error(void*) { return message; }

int describe(void* handle, DeviceInfo* info) {
  return guarded([&] {
    const CpuDevice& device = as_device(handle);
    *info = {};
    std::snprintf(info->name, sizeof info->name, "%s", processor_name().c_str());
    std::snprintf(info->isa, sizeof info->isa, "%s", isa_name(device.isa));
    info->threads = device.pool.size();
    info->total_bytes = os::total_memory_bytes();
    info->free_bytes = os::available_memory_bytes();
    info->fixed_bytes = device.scratch_bytes();
  });
}

// Small buffers come from the heap: a process may only hold so many page mappings.
constexpr size_t kPageThreshold = size_t{256} << 10;
// From here on a block fills huge pages of its own.
constexpr size_t kMappingThreshold = size_t{4} << 20;
constexpr std::align_val_t kAlignment{64};

int allocate(void* handle, size_t bytes, void** pointer) {
  return guarded([&] {
    if (bytes >= kMappingThreshold) {
      *pointer = os::allocate_pages(bytes);
      return;
    }
    if (bytes >= kPageThreshold) {
      *pointer = as_device(handle).slabs.allocate(bytes);
      return;
    }
    *pointer = ::operator new(bytes, kAlignment);
    std::memset(*pointer, 0, bytes);
  });
}

void release(void* handle, void* pointer, size_t bytes) {
  if (bytes >= kMappingThreshold)
    os::free_pages(pointer, bytes);
  else if (bytes >= kPageThreshold)
    as_device(handle).slabs.release(pointer, bytes);
  else
    ::operator delete(pointer, kAlignment);
}

int copy(void*, void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
  return 0;
}

int fill_zero(void*, void* to, size_t bytes) {
  if (bytes > 0) std::memset(to, 0, bytes);
  return 0;
}

int synchronize(void*) { return 0; }

// The backend row that runs row `Kernel` of the kernel table.
template <auto Kernel, typename Op>
int run(void* handle, const Op* op) {
  return guarded([&] {
    CpuDevice& device = as_device(handle);
    const std::lock_guard lock(device.running);
    (device.kernels.*Kernel)(device, *op);
  });
}

int measure_peak(void* handle, PeakKind kind, double seconds, double* rate) {
  return guarded([&] {
    CpuDevice& device = as_device(handle);
    const std::lock_guard lock(device.running);
    *rate = cpu::measure_peak(device, kind, seconds);
  });
}

// Clipping is the same for all kernels: they see it as a part of grad_scale.
int adamw(void* handle, const AdamW* op) {
  AdamW scaled = *op;
  if (op->squared_norm) {
    const float clip = clip_scale(std::sqrt(*op->squared_norm), op->max_norm);
    if (std::isnan(clip)) return 0;
    scaled.grad_scale *= clip;
    scaled.squared_norm = nullptr;
  }
  return op->eight_bit ? run<&KernelTable::adamw_8bit>(handle, &scaled)
                       : run<&KernelTable::adamw_f32>(handle, &scaled);
}

int squared_norm(void* handle, const SquaredNorm* op) {
  const int status = run<&KernelTable::squared_norm>(handle, op);
  const auto is_finite = [](float value) { return std::isfinite(value); };
  if (status == 0 && !std::all_of(op->finite, op->finite + op->finite_count, is_finite))
    *op->result = std::numeric_limits<double>::quiet_NaN();
  return status;
}

template <auto Query, typename Shape>
size_t workspace_bytes(void* handle, const Shape* shape) {
  const CpuDevice& device = as_device(handle);
  return (device.kernels.*Query)(device, *shape);
}

Backend make_backend() {
  using T = KernelTable;
  Backend b{};
  b.abi_version = kBackendAbiVersion;
  b.struct_bytes = sizeof(Backend);
  b.name = "cpu";
  b.open = open_device;
  b.close = close_device;
  b.last_error = last_error;
  b.describe = describe;
  b.allocate = allocate;
  b.release = release;
  b.upload = copy;
  b.download = copy;
  b.copy = copy;
  b.fill_zero = fill_zero;
  b.synchronize = synchronize;
  b.measure_peak = measure_peak;
  b.host_memory = true;
  b.crowded_row_bytes = 2048;  // half of a page: the sets of a first cache
  b.linear_workspace_bytes = workspace_bytes<&T::linear_workspace_bytes, LinearShape>;
  b.attention_workspace_bytes = workspace_bytes<&T::attention_workspace_bytes, AttentionShape>;
  b.head_loss_workspace_bytes = workspace_bytes<&T::head_loss_workspace_bytes, HeadLossShape>;
  b.linear_forward = run<&T::linear_forward, LinearForward>;
  b.linear_backward = run<&T::linear_backward, LinearBackward>;
  b.rms_norm_forward = run<&T::rms_norm_forward, RmsNormForward>;
  b.rms_norm_backward = run<&T::rms_norm_backward, RmsNormBackward>;
  b.layer_norm_forward = run<&T::layer_norm_forward, LayerNormForward>;
  b.layer_norm_backward = run<&T::layer_norm_backward, LayerNormBackward>;
  b.rope = run<&T::rope, Rope>;
  b.gated_activation_forward = run<&T::gated_activation_forward, GatedActivationForward>;
  b.gated_activation_backward = run<&T::gated_activation_backward, GatedActivationBackward>;
  b.attention_forward = run<&T::attention_forward, AttentionForward>;
  b.attention_backward = run<&T::attention_backward, AttentionBackward>;
  b.embedding_forward = run<&T::embedding_forward, EmbeddingForward>;
  b.embedding_backward = run<&T::embedding_backward, EmbeddingBackward>;
  b.head_loss = run<&T::head_loss, HeadLoss>;
  b.adamw = adamw;
  b.squared_norm = squared_norm;
  b.cast = run<&T::cast, Cast>;
  b.quantize_nf4 = run<&T::quantize_nf4, QuantizeNf4>;
  b.quantize_absmax = run<&T::quantize_absmax, QuantizeAbsmax>;
  b.quantize_int8 = run<&T::quantize_int8, QuantizeInt8>;
  b.dequantize = run<&T::dequantize, Dequantize>;
  return b;
}

}  // namespace
}  // namespace cpu

const Backend& cpu_backend() {
  static const Backend backend = cpu::make_backend();
  return backend;
}

}  // namespace lowrank
