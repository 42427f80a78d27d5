#include "cuda/kernels/elementwise.cuh"

#include "cuda/dispatch.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {

void rope(CudaDevice& device, const Rope& op) {
  const int half = op.rotary_dim / 2;
  with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<NoShared>(device.stream, rope_kernel<X>,
                     element_grid(op.x.rows, int64_t{op.heads} * half), kRowThreads, view<X>(op.x),
                     op.head_dim, half, op.positions, op.cos, op.sin, op.inverse);
  });
}

void gated_activation_forward(CudaDevice& device, const GatedActivationForward& op) {
  with_activation(op.y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<NoShared>(device.stream, gated_activation_kernel<X>, chunk_grid(op.y.rows, op.y.cols),
                     kRowThreads, view<X>(op.gate), view<X>(op.up), view<X>(op.y), op.activation);
  });
}

void gated_activation_backward(CudaDevice& device, const GatedActivationBackward& op) {
  with_activation(op.d_y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<NoShared>(device.stream, gated_activation_backward_kernel<X>,
                     chunk_grid(op.d_y.rows, op.d_y.cols), kRowThreads, view<X>(op.gate),
                     view<X>(op.up), view<X>(op.d_y), view<X>(op.d_gate), view<X>(op.d_up),
                     op.activation);
  });
}

void cast(CudaDevice& device, const Cast& op) {
  with_float_type(op.from_dtype, [&](auto from_tag) {
    using From = typename decltype(from_tag)::Type;
    with_float_type(op.to_dtype, [&](auto to_tag) {
      using To = typename decltype(to_tag)::Type;
      launch<NoShared>(device.stream, cast_kernel<From, To>, flat_grid(divide_up(op.count, 8)),
                       kRowThreads, static_cast<const From*>(op.from), static_cast<To*>(op.to),
                       op.count);
    });
  });
}

}  // namespace lowrank::cuda
