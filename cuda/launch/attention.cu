// Launches of attention. Documents' lengths stand in device memory, so there is a block for every
// stretch that there could be; those without one end at once.
#include "cuda/kernels/attention.cuh"

#include <stdexcept>

#include "cuda/dispatch.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {
namespace {

template <int D>
struct HeadTag {
  static constexpr int kDim = D;
};

// Calls body(HeadTag<the smallest kernel that holds this head size>).
template <typename Body>
void with_head(int32_t head_dim, const Body& body) {
  if (head_dim <= 64)
    body(HeadTag<64>{});
  else if (head_dim <= 128)
    body(HeadTag<128>{});
  else if (head_dim <= 256)
    body(HeadTag<256>{});
  else
    throw std::invalid_argument("attention heads of more than 256 elements aren't supported");
}

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

template <int D>
Grid stretch_grid(int64_t rows, int32_t documents, int32_t heads) {
  if (rows == 0) return {0};
  return {static_cast<unsigned>(rows / AttentionTile<D>::kRows + documents),
          static_cast<unsigned>(heads)};
}

}  // namespace

// The backward pass keeps delta [heads, query rows] in f32.
size_t attention_workspace_bytes(const AttentionShape& shape) {
  if (!shape.backward) return 0;
  return static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.query_tokens) * sizeof(float);
}

void attention_forward(CudaDevice& device, const AttentionForward& op) {
  const AttentionArguments a = arguments_of(op);
  with_activation(op.q.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    with_head(op.head_dim, [&](auto head) {
      constexpr int D = decltype(head)::kDim;
      launch<AttentionShared<X, D>>(device.stream, attention_kernel<X, D>,
                                    stretch_grid<D>(op.q.rows, op.documents, op.heads),
                                    kAttentionThreads, a, view<X>(op.q), view<X>(op.k),
                                    view<X>(op.v), view<X>(op.out), op.lse);
    });
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
    with_head(f.head_dim, [&](auto head) {
      constexpr int D = decltype(head)::kDim;
      using Shared = AttentionBackwardShared<X, D>;
      // Keys first: d_q may take d_out's place.
      launch<Shared>(device.stream, attention_keys_kernel<X, D>,
                     stretch_grid<D>(f.k.rows, f.documents, f.kv_heads), kAttentionThreads, a,
                     view<X>(f.q), view<X>(f.k), view<X>(f.v), view<X>(op.d_out), f.lse, delta,
                     view<X>(op.d_k), view<X>(op.d_v));
      launch<Shared>(device.stream, attention_queries_kernel<X, D>,
                     stretch_grid<D>(f.q.rows, f.documents, f.heads), kAttentionThreads, a,
                     view<X>(f.q), view<X>(f.k), view<X>(f.v), view<X>(op.d_out), f.lse, delta,
                     view<X>(op.d_q));
    });
  });
}

}  // namespace lowrank::cuda
