#include "cuda/kernels/embedding.cuh"

#include <stdexcept>

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
  const int64_t tokens = op.d_y.rows;
  if (tokens == 0) return;
  if (2 * static_cast<size_t>(tokens) * sizeof(int32_t) > kPartials * sizeof(double))
    throw std::length_error("too many tokens for one embedding gradient");
  auto* order = reinterpret_cast<int32_t*>(device.partials);
  launch<SortShared>(device.stream, sort_tokens_kernel, Grid{1}, kSortThreads, op.ids,
                     static_cast<int32_t>(tokens), order, order + tokens);
  with_activation(op.d_y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    launch<NoShared>(device.stream, embedding_backward_kernel<X>,
                     Grid{static_cast<unsigned>(tokens),
                          static_cast<unsigned>(divide_up(op.d_y.cols, kRowThreads))},
                     kRowThreads, op.ids, order, view<X>(op.d_y), op.d_weight, op.padding_id);
  });
}

}  // namespace lowrank::cuda
