// What the launches of attention share.
#pragma once

#include <stdexcept>

#include "cuda/kernels/attention_stretch.cuh"
#include "cuda/runtime.h"

namespace lowrank::cuda {

template <int D>
struct HeadTag {
  static constexpr int kDim = D;
};
template <int... kSizes>
struct HeadSizes {};

// Calls body(HeadTag<the smallest of kSizes that holds this head size>); they ascend.
template <int... kSizes, typename Body>
void with_head(HeadSizes<kSizes...>, int32_t head_dim, const Body& body) {
  bool found = false;
  ((!found && head_dim <= kSizes ? (found = true, body(HeadTag<kSizes>{})) : void()), ...);
  if (!found)
    throw std::invalid_argument("attention heads of more than 256 elements aren't supported");
}

// A block for every stretch of `tile` rows that documents of any length could have, and each head.
inline Grid stretch_grid(int64_t rows, int tile, int32_t documents, int32_t heads) {
  if (rows == 0) return {0};
  return {static_cast<unsigned>(rows / tile + documents), static_cast<unsigned>(heads)};
}

// Over bf16. `delta` as in kernels/attention.cuh.
void attention_mma_forward(CudaDevice& device, const AttentionArguments& a,
                           const AttentionForward& op);
void attention_mma_backward(CudaDevice& device, const AttentionArguments& a,
                            const AttentionBackward& op, const float* delta);

}  // namespace lowrank::cuda
