// Which products go to cuBLASLt: large ones of bf16 with nothing that its sums don't know, such as
// adapters, dropout or a bias. The choice is one of shape, types and alignment.
#include "cuda/launch/gemm.h"

namespace lowrank::cuda {
namespace {

bool is_aligned(const void* pointer, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % Cublaslt::kAlignmentBytes == 0 &&
         bytes % Cublaslt::kAlignmentBytes == 0;
}

bool is_aligned(const void* pointer, int64_t cols, int64_t stride, size_t element_bytes) {
  const auto bytes = static_cast<int64_t>(element_bytes);
  return is_aligned(pointer, cols * bytes) && is_aligned(pointer, stride * bytes);
}

// Memory of bf16 as it stands, [rows, k] in the product's terms.
bool is_plain(const Operand& o, int64_t rows, int64_t k) {
  const Weight& values = o.values;
  return values.storage == Storage::kBF16 && o.scale == 1 && o.dropout.threshold == 0 &&
         values.rows == (o.k_is_row ? k : rows) && values.cols == (o.k_is_row ? rows : k) &&
         o.first == 0 && o.last == values.rows &&
         is_aligned(values.data, values.cols, o.stride, sizeof(BF16));
}

}  // namespace

bool run_cublaslt(CudaDevice& device, const Gemm& gemm) {
  const int64_t least = device.least_library_extent;
  if (!device.blas || gemm.m < least || gemm.n < least || gemm.k < least) return false;
  if (gemm.adapter_count > 0 || gemm.bias || (gemm.residual && gemm.accumulate)) return false;
  if (!is_plain(gemm.a, gemm.m, gemm.k) || !is_plain(gemm.b, gemm.n, gemm.k)) return false;
  LibraryProduct product;
  product.shape = {gemm.m, gemm.n, gemm.k, gemm.a.stride, gemm.b.stride, gemm.c_stride};
  product.shape.a_k_is_row = gemm.a.k_is_row;
  product.shape.b_k_is_row = gemm.b.k_is_row;
  product.shape.c_bf16 = gemm.c_dtype == DType::kBF16;
  product.a = gemm.a.values.data;
  product.b = gemm.b.values.data;
  product.c = gemm.c;
  product.scale = gemm.scale;
  if (gemm.residual) {
    product.from = gemm.residual;
    product.shape.from_stride = gemm.residual_stride;
  } else if (gemm.accumulate) {
    product.from = gemm.c;
    product.shape.from_stride = gemm.c_stride;
  }
  const size_t bytes = dtype_size(gemm.c_dtype);
  if (!is_aligned(gemm.c, gemm.n, gemm.c_stride, bytes) ||
      !is_aligned(product.from, gemm.n, product.shape.from_stride, bytes))
    return false;
  if (product.from == gemm.c && product.shape.from_stride != gemm.c_stride) return false;
  return device.blas->multiply(device.stream, product, device.blas_workspace);
}

}  // namespace lowrank::cuda
