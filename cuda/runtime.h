// What launches need of a device: its stream and memory. Two files implement it: runtime_nvcc.cu
// over the CUDA runtime, and the one of the execution model in test/cuda. Functions throw
// std::exception. Copies and launches of one stream run in order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "cuda/cublaslt.h"
#include "cuda/device.cuh"
#include "cuda/tables.h"

namespace lowrank::cuda {

namespace runtime {

// Throws with one sentence when the device can't be used: no driver, too old, no such ordinal.
Stream open(const DeviceOptions& options);
void close(Stream stream) noexcept;
// Makes this device the calling thread's; every call from outside begins with it.
void use(int ordinal);
void describe(Stream stream, DeviceInfo* info);
void* allocate(Stream stream, size_t bytes);  // zero-filled; throws std::bad_alloc
void release(Stream stream, void* pointer) noexcept;
// `from` may be reused at once.
void upload(Stream stream, void* to, const void* from, size_t bytes);
// Returns when `to` holds the bytes.
void download(Stream stream, void* to, const void* from, size_t bytes);
void copy(Stream stream, void* to, const void* from, size_t bytes);
void fill_zero(Stream stream, void* to, size_t bytes);
void synchronize(Stream stream);
// Seconds that `work` takes on the device.
double time(Stream stream, void (*work)(void*), void* argument);
// Whether device pointers are the host's too, and how many blocks the device runs at a time.
bool host_memory();
int processors(Stream stream);

// Where cuBLASLt for such streams is looked for: the environment's variable with a path or "off",
// else these names.
struct LibrarySearch {
  const char* variable;
  const char* names[2];
};
LibrarySearch cublaslt_search();

}  // namespace runtime

// Argument lists of one operation, and partial sums of reductions and of split products.
inline constexpr size_t kArgumentBytes = size_t{1} << 20;
inline constexpr size_t kPartials = size_t{1} << 21;

struct CudaDevice {
  explicit CudaDevice(const DeviceOptions& options);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  size_t fixed_bytes() const {
    return sizeof(Tables) + kArgumentBytes + kPartials * sizeof(double) +
           (blas ? Cublaslt::kWorkspaceBytes : 0);
  }

  // Copies a list that lies in host memory to where kernels can read it, until the next operation.
  template <typename T>
  const T* stage(const T* list, int64_t count) {
    return static_cast<const T*>(stage_bytes(list, sizeof(T) * static_cast<size_t>(count)));
  }

  std::mutex running;  // held by the operation that runs
  int ordinal = 0;
  Stream stream{};
  Tables* tables = nullptr;  // device memory, as are the next two
  char* arguments = nullptr;
  double* partials = nullptr;
  size_t staged = 0;
  std::string lost;  // what every call answers once a kernel has faulted; else empty

  std::unique_ptr<Cublaslt> blas;    // null: there is none that can be used,
  std::string blas_note;             // for this reason
  void* blas_workspace = nullptr;    // device memory
  int64_t least_library_extent = 0;  // of m, n and k for a product to go to it

 private:
  void open_cublaslt();
  void release_all() noexcept;
  const void* stage_bytes(const void* from, size_t bytes);
};

// ---- Operations: one file each in launch/ -------------------------------------------------------

void linear_forward(CudaDevice&, const LinearForward&);
void linear_backward(CudaDevice&, const LinearBackward&);
void rms_norm_forward(CudaDevice&, const RmsNormForward&);
void rms_norm_backward(CudaDevice&, const RmsNormBackward&);
void layer_norm_forward(CudaDevice&, const LayerNormForward&);
void layer_norm_backward(CudaDevice&, const LayerNormBackward&);
void rope(CudaDevice&, const Rope&);
void gated_activation_forward(CudaDevice&, const GatedActivationForward&);
void gated_activation_backward(CudaDevice&, const GatedActivationBackward&);
void attention_forward(CudaDevice&, const AttentionForward&);
void attention_backward(CudaDevice&, const AttentionBackward&);
void embedding_forward(CudaDevice&, const EmbeddingForward&);
void embedding_backward(CudaDevice&, const EmbeddingBackward&);
void head_loss(CudaDevice&, const HeadLoss&);
void adamw(CudaDevice&, const AdamW&);
void squared_norm(CudaDevice&, const SquaredNorm&);
void cast(CudaDevice&, const Cast&);
void quantize_nf4(CudaDevice&, const QuantizeNf4&);
void quantize_absmax(CudaDevice&, const QuantizeAbsmax&);
void quantize_int8(CudaDevice&, const QuantizeInt8&);
void dequantize(CudaDevice&, const Dequantize&);
double measure_peak(CudaDevice&, PeakKind, double seconds);

size_t linear_workspace_bytes(const LinearShape&);
size_t attention_workspace_bytes(const AttentionShape&);
size_t head_loss_workspace_bytes(const HeadLossShape&);

}  // namespace lowrank::cuda
