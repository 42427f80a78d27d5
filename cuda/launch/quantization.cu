#include "cuda/kernels/quantization.cuh"

#include "cuda/dispatch.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {

void quantize_nf4(CudaDevice& device, const QuantizeNf4& op) {
  const int64_t blocks = divide_up(op.count, kNf4Block);
  with_float_type(op.from_dtype, [&](auto tag) {
    using From = typename decltype(tag)::Type;
    launch<NoShared>(device.stream, quantize_nf4_kernel<From>,
                     Grid{static_cast<unsigned>(divide_up(blocks, kRowThreads / kWarp))},
                     kRowThreads, static_cast<const From*>(op.from), op.count, device.tables,
                     op.codes, op.absmax);
  });
}

void quantize_absmax(CudaDevice& device, const QuantizeAbsmax& op) {
  float* offset = reinterpret_cast<float*>(device.partials);
  launch<MeanShared>(device.stream, mean_kernel, Grid{1}, 1024u, op.absmax, op.count, offset);
  launch<CodeShared>(device.stream, quantize_absmax_kernel,
                     Grid{static_cast<unsigned>(divide_up(op.count, kNf4NestedBlock))},
                     kCodeThreads, op.absmax, op.count, offset, device.tables, op.codes,
                     op.nested_absmax);
  runtime::download(device.stream, op.offset, offset, sizeof *offset);
}

void quantize_int8(CudaDevice& device, const QuantizeInt8& op) {
  with_float_type(op.from_dtype, [&](auto tag) {
    using From = typename decltype(tag)::Type;
    launch<Int8Shared>(device.stream, quantize_int8_kernel<From>,
                       Grid{static_cast<unsigned>(op.rows)}, kInt8Threads,
                       static_cast<const From*>(op.from), op.cols, op.codes, op.row_scale);
  });
}

void dequantize(CudaDevice& device, const Dequantize& op) {
  with_float_type(op.to_dtype, [&](auto tag) {
    using To = typename decltype(tag)::Type;
    launch<NoShared>(device.stream, dequantize_kernel<To>,
                     flat_grid(op.weight.rows * op.weight.cols), kRowThreads, op.weight,
                     device.tables, static_cast<To*>(op.to));
  });
}

}  // namespace lowrank::cuda
