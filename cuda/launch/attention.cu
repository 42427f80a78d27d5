// Launches of attention. Documents' lengths stand in device memory, so there is a block for every
// stretch that there could be; those without one end at once.
#include "cuda/launch/attention.h"

#include "cuda/dispatch.h"
#include "cuda/kernels/attention.cuh"

namespace lowrank::cuda {
namespace {

using Heads = HeadSizes<64, 128, 256>;

AttentionArguments arguments_of(const AttentionForward& op) {
  AttentionArguments a;
  a.q_offsets = op.q_offsets;
  a.k_offsets = op.k_offsets;
  a.documents = op.documents;
  a.heads = op.heads;
  a.kv_heads = op.kv_heads;
  a.head_dim = op.head_dim;
  a.window = op.window;
  a.query_rows = op.q.rows;
  a.scale = op.scale;
  return a;
}

}  // namespace

// The backward pass keeps delta [heads, query rows] in f32.
size_t attention_workspace_bytes(const AttentionShape& shape) {
  if (!shape.backward) return 0;
  return static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.query_tokens) * sizeof(float);
}

void attention_forward(CudaDevice& device, const AttentionForward& op) {
  const AttentionArguments a = arguments_of(op);
  if (op.q.dtype == DType::kBF16) return attention_mma_forward(device, a, op);
  with_head(Heads{}, op.head_dim, [&](auto head) {
    constexpr int D = decltype(head)::kDim;
    launch<AttentionShared<D>>(
        device.stream, attention_kernel<D>,
        stretch_grid(op.q.rows, AttentionTile<D>::kRows, op.documents, op.heads), kAttentionThreads,
        a, view<float>(op.q), view<float>(op.k), view<float>(op.v), view<float>(op.out), op.lse);
  });
}

void attention_backward(CudaDevice& device, const AttentionBackward& op) {
  const AttentionForward& f = op.forward;
  const AttentionArguments a = arguments_of(f);
  auto* delta = static_cast<float*>(f.workspace);
  with_activation(f.q.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    const Grid rows{static_cast<unsigned>(divide_up(f.q.rows, kAttentionThreads / kWarp)),
                    static_cast<unsigned>(f.heads)};
    launch<NoShared>(device.stream, attention_delta_kernel<X>, rows, kAttentionThreads, a,
                     view<X>(f.out), view<X>(op.d_out), delta);
  });
  if (f.q.dtype == DType::kBF16) return attention_mma_backward(device, a, op, delta);
  with_head(Heads{}, f.head_dim, [&](auto head) {
    constexpr int D = decltype(head)::kDim, kRows = AttentionTile<D>::kRows;
    using Shared = AttentionBackwardShared<D>;
    // Keys first: d_q may take d_out's place.
    launch<Shared>(device.stream, attention_keys_kernel<D>,
                   stretch_grid(f.k.rows, kRows, f.documents, f.kv_heads), kAttentionThreads, a,
                   view<float>(f.q), view<float>(f.k), view<float>(f.v), view<float>(op.d_out),
                   f.lse, delta, view<float>(op.d_k), view<float>(op.d_v));
    launch<Shared>(device.stream, attention_queries_kernel<D>,
                   stretch_grid(f.q.rows, kRows, f.documents, f.heads), kAttentionThreads, a,
                   view<float>(f.q), view<float>(f.k), view<float>(f.v), view<float>(op.d_out),
                   f.lse, delta, view<float>(op.d_q));
  });
}

}  // namespace lowrank::cuda
