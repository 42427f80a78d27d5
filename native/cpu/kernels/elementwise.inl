// The family of row-wise kernels, compiled once per instruction set (see cpu/isa/README.md).
#include "cpu/cpu_device.h"
#include "cpu/isa/kernels.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

// Elements that one task works on: enough to be worth a thread's attention.
constexpr int64_t kTaskElements = 16384;

// Calls body(begin, end) over [0, rows) in chunks that depend on the shape only.
template <typename Body>
LOWRANK_INLINE void parallel_rows(CpuDevice& device, int64_t rows, int64_t cols, const Body& body) {
  if (rows <= 0 || cols <= 0) return;
  const int64_t chunk = cols >= kTaskElements ? 1 : (kTaskElements + cols - 1) / cols;
  device.pool.parallel_for((rows + chunk - 1) / chunk, [&](int64_t index, int) {
    const int64_t begin = index * chunk;
    body(begin, begin + chunk < rows ? begin + chunk : rows);
  });
}

// Calls body(begin, end) over the columns, for sums down the rows in row order.
template <typename Body>
LOWRANK_INLINE void parallel_columns(CpuDevice& device, int64_t cols, const Body& body) {
  constexpr int64_t kColumns = 128;
  device.pool.parallel_for((cols + kColumns - 1) / kColumns, [&](int64_t index, int) {
    const int64_t begin = index * kColumns;
    body(begin, begin + kColumns < cols ? begin + kColumns : cols);
  });
}

template <typename X>
LOWRANK_INLINE X* row_of(const Matrix& matrix, int64_t row) {
  return static_cast<X*>(matrix.data) + row * matrix.stride;
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE

#include "cpu/kernels/adamw.inl"
#include "cpu/kernels/cast.inl"
#include "cpu/kernels/embedding.inl"
#include "cpu/kernels/gated_activation.inl"
#include "cpu/kernels/layer_norm.inl"
#include "cpu/kernels/peak.inl"
#include "cpu/kernels/rms_norm.inl"
#include "cpu/kernels/rope.inl"
#include "cpu/kernels/squared_norm.inl"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {

void register_elementwise(KernelTable& table) {
  table.rms_norm_forward = rms_norm_forward;
  table.rms_norm_backward = rms_norm_backward;
  table.layer_norm_forward = layer_norm_forward;
  table.layer_norm_backward = layer_norm_backward;
  table.rope = rope;
  table.gated_activation_forward = gated_activation_forward;
  table.gated_activation_backward = gated_activation_backward;
  table.embedding_forward = embedding_forward;
  table.embedding_backward = embedding_backward;
  table.adamw_f32 = adamw_f32;
  table.squared_norm = squared_norm;
  table.cast = cast;
  register_peak(table);
}

}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
