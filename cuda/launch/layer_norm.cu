#include "cuda/kernels/layer_norm.cuh"

#include "cuda/dispatch.h"
#include "cuda/launch/gemm.h"

namespace lowrank::cuda {

void layer_norm_forward(CudaDevice& device, const LayerNormForward& op) {
  with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<LayerNormShared>(device.stream, layer_norm_kernel<X>,
                            Grid{static_cast<unsigned>(op.x.rows)}, kLayerNormThreads,
                            view<X>(op.x), view<X>(op.y), op.weight, op.bias, op.eps, op.mean,
                            op.rstd);
  });
}

void layer_norm_backward(CudaDevice& device, const LayerNormBackward& op) {
  // Parameters first, because d_x may take the place of d_y.
  if (op.d_bias) add_column_sums(device, op.d_y, op.d_bias);
  with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    if (op.d_weight)
      launch<ColumnShared>(device.stream, layer_norm_weight_kernel<X>,
                           Grid{static_cast<unsigned>(divide_up(op.x.cols, kWarp))},
                           kWarp * kColumnGroups, view<X>(op.x), view<X>(op.d_y), op.mean, op.rstd,
                           op.d_weight);
    launch<LayerNormShared>(device.stream, layer_norm_backward_kernel<X>,
                            Grid{static_cast<unsigned>(op.x.rows)}, kLayerNormThreads,
                            view<X>(op.x), view<X>(op.d_y), view<X>(op.d_x), op.accumulate_d_x,
                            op.weight, op.mean, op.rstd);
  });
}

}  // namespace lowrank::cuda
