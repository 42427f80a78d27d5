// Loops that do nothing but what is measured: products in registers, or reading memory.
#pragma once

#include "cuda/kernels/operand.cuh"

namespace lowrank::cuda {

inline constexpr unsigned kPeakThreads = 256;

// 8 chains per thread, 2 FLOP per step of each. `sink` is written only if the sums came out as a
// value that they can't have, so that the loop isn't removed.
LOWRANK_KERNEL void f32_peak_kernel(int64_t rounds, float factor, float* sink) {
  float sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = static_cast<float>(thread_index() + 1u) * factor;
  for (int64_t round = 0; round < rounds; ++round)
    for (float& sum : sums) sum = multiply_add(sum, factor, factor);
  for (float sum : sums)
    if (sum == -1) *sink = sum;
}

// 4 chains per warp of one matrix instruction each: 4096 FLOP.
LOWRANK_KERNEL void bf16_peak_kernel(int64_t rounds, float factor, float* sink) {
  const Pair one = bf16_pair(factor, factor);
  const Pair a[4] = {one, one, one, one}, b[2] = {one, one};
  float sums[4][4] = {};
  for (int64_t round = 0; round < rounds; ++round)
    for (auto& sum : sums) mma_16x8x16(sum, a, b);
  for (const auto& sum : sums)
    if (sum[0] == -1) *sink = sum[0];
}

LOWRANK_KERNEL void read_peak_kernel(const char* from, int64_t words, float* sink) {
  uint32_t bits = 0;
  for_each_index(words, [&](int64_t i) {
    const auto word = load_vector<Words4>(from + i * 16);
    bits |= word.w[0] | word.w[1] | word.w[2] | word.w[3];
  });
  if (bits != 0) *sink = 1;  // the memory is zero
}

}  // namespace lowrank::cuda
