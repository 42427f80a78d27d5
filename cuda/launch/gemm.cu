#include "cuda/launch/gemm.h"

#include <stdexcept>

#include "cuda/dispatch.h"
#include "cuda/kernels/columns.cuh"
#include "cuda/kernels/gemm_mma.cuh"
#include "cuda/kernels/gemm_plain.cuh"
#include "cuda/kernels/gemm_splits.cuh"

namespace lowrank::cuda {

Operand operand(const void* data, Storage storage, int64_t rows, int64_t cols, int64_t stride) {
  Operand o;
  o.values.data = data;
  o.values.storage = storage;
  o.values.rows = rows;
  o.values.cols = cols;
  o.stride = stride;
  o.last = rows;
  return o;
}

Operand operand(const Matrix& matrix) {
  return operand(matrix.data, matrix.dtype == DType::kBF16 ? Storage::kBF16 : Storage::kF32,
                 matrix.rows, matrix.cols, matrix.stride);
}

Operand operand(const Weight& weight) {
  Operand o;
  o.values = weight;
  o.stride = weight.cols;
  o.last = weight.rows;
  return o;
}

Operand transposed(Operand operand) {
  operand.k_is_row = true;
  return operand;
}

Dropout dropout_of(const LoraSegment& segment, int64_t cols) {
  Dropout d;
  if (segment.dropout <= 0) return d;
  d.key = segment.dropout_key;
  d.threshold = dropout_threshold(segment.dropout);
  d.keep_scale = static_cast<float>(1.0 / (1.0 - static_cast<double>(segment.dropout)));
  d.cols = cols;
  return d;
}

void set_output(Gemm& gemm, void* data, DType dtype, int64_t stride) {
  gemm.c = data;
  gemm.c_dtype = dtype;
  gemm.c_stride = stride;
}

namespace {

// Blocks that a product of few tiles is split into; the number is the same on every device, so that
// sums are. Their partial sums fit in CudaDevice::partials.
constexpr int64_t kSplitBlocks = 256;
constexpr int64_t kMinSplitK = 128;
static_assert(kSplitBlocks * MatrixTile::kM * MatrixTile::kN * sizeof(float) <=
              kPartials * sizeof(double));

// Launches `kernel` over tiles and splits, and adds the splits.
template <typename Tile, typename Shared>
void run_tiles(CudaDevice& device, Gemm gemm, void (*kernel)(Gemm, const Tables*)) {
  const int64_t rows = divide_up(gemm.m, Tile::kM), cols = divide_up(gemm.n, Tile::kN);
  if (rows == 0 || cols == 0) return;
  const int64_t most =
      larger<int64_t>(1, smaller(kSplitBlocks / (rows * cols), divide_up(gemm.k, kMinSplitK)));
  gemm.split_k = larger<int64_t>(1, divide_up(divide_up(gemm.k, most), 32)) * 32;
  const int64_t splits = larger<int64_t>(1, divide_up(gemm.k, gemm.split_k));
  if (splits > 1) gemm.partials = reinterpret_cast<float*>(device.partials);
  launch<Shared>(
      device.stream, kernel,
      Grid{static_cast<unsigned>(rows), static_cast<unsigned>(cols), static_cast<unsigned>(splits)},
      Tile::kThreads, gemm, device.tables);
  if (splits > 1)
    launch<NoShared>(device.stream, add_splits_kernel, element_grid(gemm.m, gemm.n), kRowThreads,
                     gemm, splits);
}

template <bool kA, bool kB>
void run_matrix(CudaDevice& device, const Gemm& gemm) {
  run_tiles<MatrixTile, MatrixShared<kA, kB>>(device, gemm, gemm_matrix_kernel<kA, kB>);
}

}  // namespace

void run_gemm(CudaDevice& device, const Gemm& gemm, DType activation) {
  if (activation != DType::kBF16)
    run_tiles<PlainTile, PlainShared>(device, gemm, gemm_plain_kernel);
  else if (run_cublaslt(device, gemm))
    return;
  else if (!gemm.a.k_is_row && !gemm.b.k_is_row)
    run_matrix<false, false>(device, gemm);
  else if (!gemm.a.k_is_row)
    run_matrix<false, true>(device, gemm);
  else if (gemm.b.k_is_row)
    run_matrix<true, true>(device, gemm);
  else
    throw std::invalid_argument("no operation multiplies so");  // each form takes long to compile
}

void add_column_sums(CudaDevice& device, const Matrix& x, float* total) {
  with_activation(x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<ColumnShared>(device.stream, column_sum_kernel<X>,
                         Grid{static_cast<unsigned>(divide_up(x.cols, kWarp))},
                         kWarp * kColumnGroups, view<X>(x), total);
  });
}

}  // namespace lowrank::cuda
