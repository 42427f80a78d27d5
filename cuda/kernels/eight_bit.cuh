// Scaling by an absmax, and blocks of 8-bit codes.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace lowrank::cuda {

LOWRANK_DEVICE inline float scale_to_unit(float x, float absmax, bool full) {
  const float bound = absmax != absmax ? absmax : larger(absmax, kMinAbsmax);
  const float scaled = full ? x * (1.0f / bound) : x / bound;
  return scaled < -1 ? -1.0f : scaled > 1 ? 1.0f : scaled;
}

// What a block stores: NaN stays NaN.
LOWRANK_DEVICE inline float stored_absmax(float absmax, bool full) {
  return full || absmax != absmax ? absmax : larger(absmax, kMinAbsmax);
}

inline constexpr unsigned kCodeThreads = 256;  // one per value of an 8-bit block
static_assert(kCodeThreads == kNf4NestedBlock && kCodeThreads == kOptimizerBlock);

struct CodeShared {
  SharedArray<float, kCodeThreads / kWarp> largest;
};

// Codes of one block of at most 256 values, one per thread; every thread of the block calls.
LOWRANK_DEVICE inline void quantize_8bit(const DynamicMap& map, float value, int64_t count,
                                         uint8_t* codes, float* absmax) {
  CodeShared& s = shared<CodeShared>();
  const bool full = count == kCodeThreads, inside = thread_index() < count;
  const float bound =
      stored_absmax(block_reduce(inside ? fabsf(value) : 0.0f, Largest{}, s.largest), full);
  if (thread_index() == 0) *absmax = bound;
  if (inside) codes[thread_index()] = map.code(scale_to_unit(value, bound, full));
  block_sync();  // the scratch is free again
}

}  // namespace lowrank::cuda
