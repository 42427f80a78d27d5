// cuBLASLt, looked up at run time: for products of bf16 that carry nothing else. The library is the
// system's or the one that the environment names; without it all products are our own kernels'.
#pragma once

#include <compare>
#include <map>
#include <memory>
#include <string>

#include "cuda/cublaslt_api.h"
#include "cuda/device.cuh"

namespace lowrank::cuda {

// c [m, n] = scale * a [m, k] b [n, k]^T + from, all row-major; strides count elements.
struct LibraryProduct {
  // What decides how it is computed.
  struct Shape {
    int64_t m = 0, n = 0, k = 0;
    int64_t a_stride = 0, b_stride = 0, c_stride = 0, from_stride = 0;
    bool a_k_is_row = false, b_k_is_row = false;  // the operand lies in memory as [k, m] or [k, n]
    bool c_bf16 = false;                          // else f32
    auto operator<=>(const Shape&) const = default;
  } shape;
  const void* a = nullptr;  // bf16, as b is
  const void* b = nullptr;
  void* c = nullptr;
  const void* from = nullptr;  // of c's type; may be c, with its stride, or null
  float scale = 1;
};

class Cublaslt {
 public:
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what NVIDIA advises for sm_90
  // Pointers, strides, and extents along memory's rows are multiples of this.
  static constexpr int64_t kAlignmentBytes = 16;

  // Null where there is no library that can be used, with one sentence about it in `note`.
  static std::unique_ptr<Cublaslt> open(std::string* note);
  ~Cublaslt();
  Cublaslt(const Cublaslt&) = delete;
  Cublaslt& operator=(const Cublaslt&) = delete;

  std::string version() const;  // "13.1.1"

  // Queues the product; false, and nothing is queued, where the library has no way to compute it.
  // The same shape is computed in the same way each time. `workspace` is device memory.
  bool multiply(Stream stream, const LibraryProduct& product, void* workspace);

 private:
  struct Plan;

  Cublaslt() = default;
  const Plan& plan_for(const LibraryProduct::Shape& shape);
  void check(cublaslt::Status status, const char* what) const;

  cublaslt::Functions functions_{};
  cublaslt::Context* context_ = nullptr;
  std::map<LibraryProduct::Shape, std::unique_ptr<const Plan>> plans_;
};

}  // namespace lowrank::cuda
