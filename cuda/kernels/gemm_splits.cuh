// The second launch of a product that was split over k.
#pragma once

#include "cuda/kernels/gemm.cuh"

namespace lowrank::cuda {

// c from the partial sums of all splits, added in their order.
LOWRANK_KERNEL void add_splits_kernel(Gemm g, int64_t splits) {
  for_each_element(g.m, g.n, [&](int64_t row, int64_t col) {
    float sum = g.partials[row * g.n + col];
    for (int64_t split = 1; split < splits; ++split)
      sum += g.partials[(split * g.m + row) * g.n + col];
    store_sums(g, row, col, sum, 0, false);
  });
}

}  // namespace lowrank::cuda
