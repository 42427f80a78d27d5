#include "cuda/kernels/embedding.cuh"

#include "cuda/dispatch.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {

void embedding_forward(CudaDevice& device, const EmbeddingForward& op) {
  with_activation(op.y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<NoShared>(device.stream, embedding_kernel<X>, element_grid(op.y.rows, op.y.cols),
                     kRowThreads, op.ids, op.weight, device.tables, view<X>(op.y));
  });
}

void embedding_backward(CudaDevice& device, const EmbeddingBackward& op) {
  with_activation(op.d_y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<EmbeddingShared>(device.stream, embedding_backward_kernel<X>,
                            Grid{static_cast<unsigned>(op.d_y.rows)}, kRowThreads, op.ids,
                            view<X>(op.d_y), op.d_weight, op.padding_id);
  });
}

}  // namespace lowrank::cuda
