#include "cuda/kernels/rms_norm.cuh"

#include "cuda/dispatch.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {

void rms_norm_forward(CudaDevice& device, const RmsNormForward& op) {
  with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<NormShared>(device.stream, rms_norm_kernel<X>, Grid{static_cast<unsigned>(op.x.rows)},
                       kNormThreads, view<X>(op.x), view<X>(op.y), op.weight, op.eps, op.rstd);
  });
}

void rms_norm_backward(CudaDevice& device, const RmsNormBackward& op) {
  with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    // First, because d_x may take the place of d_y.
    if (op.d_weight)
      launch<ColumnShared>(device.stream, rms_norm_weight_kernel<X>,
                           Grid{static_cast<unsigned>(divide_up(op.x.cols, kWarp))},
                           kWarp * kColumnGroups, view<X>(op.x), view<X>(op.d_y), op.rstd,
                           op.d_weight);
    launch<NormShared>(device.stream, rms_norm_backward_kernel<X>,
                       Grid{static_cast<unsigned>(op.x.rows)}, kNormThreads, view<X>(op.x),
                       view<X>(op.d_y), view<X>(op.d_x), op.accumulate_d_x, op.weight, op.rstd);
  });
}

}  // namespace lowrank::cuda
