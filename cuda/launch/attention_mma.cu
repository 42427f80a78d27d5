// Launches of attention over bf16, as in attention.cu.
#include "cuda/kernels/attention_mma.cuh"

#include "cuda/kernels/attention_mma_backward.cuh"
#include "cuda/launch/attention.h"

namespace lowrank::cuda {
namespace {

using Heads = HeadSizes<64, 80, 96, 128, 256>;

}  // namespace

void attention_mma_forward(CudaDevice& device, const AttentionArguments& a,
                           const AttentionForward& op) {
  with_head(Heads{}, op.head_dim, [&](auto head) {
    constexpr int D = decltype(head)::kDim;
    launch<MmaShared<D>>(device.stream, attention_mma_kernel<D>,
                         stretch_grid(op.q.rows, MmaTile<D>::kRows, op.documents, op.heads),
                         kAttentionThreads, a, view<BF16>(op.q), view<BF16>(op.k), view<BF16>(op.v),
                         view<BF16>(op.out), op.lse);
  });
}

void attention_mma_backward(CudaDevice& device, const AttentionArguments& a,
                            const AttentionBackward& op, const float* delta) {
  const AttentionForward& f = op.forward;
  with_head(Heads{}, f.head_dim, [&](auto head) {
    constexpr int D = decltype(head)::kDim, kRows = MmaTile<D>::kRows;
    using Shared = MmaBackwardShared<D>;
    // Keys first: d_q may take d_out's place.
    launch<Shared>(device.stream, attention_mma_keys_kernel<D>,
                   stretch_grid(f.k.rows, kRows, f.documents, f.kv_heads), kAttentionThreads, a,
                   view<BF16>(f.q), view<BF16>(f.k), view<BF16>(f.v), view<BF16>(op.d_out), f.lse,
                   delta, view<BF16>(op.d_k), view<BF16>(op.d_v));
    launch<Shared>(device.stream, attention_mma_queries_kernel<D>,
                   stretch_grid(f.q.rows, kRows, f.documents, f.heads), kAttentionThreads, a,
                   view<BF16>(f.q), view<BF16>(f.k), view<BF16>(f.v), view<BF16>(op.d_out), f.lse,
                   delta, view<BF16>(op.d_q));
  });
}

}  // namespace lowrank::cuda
