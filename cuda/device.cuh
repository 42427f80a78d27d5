// What kernels are written in: the few things that differ between nvcc and the execution model on
// the CPU (test/cuda/model) stand behind the functions of a target header, everything else is
// common. A target supplies, in namespace lowrank::cuda:
//   LOWRANK_KERNEL, LOWRANK_DEVICE        what stands before a kernel and before a device function
//   LOWRANK_UNROLL                        before a loop over what must stay in registers
//   LOWRANK_KEEP_LOOP                     before a loop for edges that isn't worth code
//   thread_index() block_index() grid_size() block_size()
//   block_sync() warp_sync()              barriers of a block, of a warp
//   shuffle_xor(value, lanes)             full warps only; value is 4 or 8 bytes
//   shared<T>()                           the block's shared memory as one struct
//   mma_16x8x16(d, a, b, format)          see there
//   load_matrices<transposed>(array, index, pairs)   ldmatrix; see there
//   copy_async(array, index, from)        16 bytes to shared memory; both sides aligned to them
//   copies_commit(), copies_wait<n>()     closes a group of this thread's copies; waits until at
//                                         most n groups are under way. Others see them after a
//                                         block_sync() that follows the wait
//   SharedArray<T, N>                     an array inside that struct; the model checks indices
//   float_from_bf16, bf16_from_float      rounding to nearest, ties to even
//   load_vector<T>(pointer)               one load of sizeof(T) bytes, aligned to them
//   launch<Shared>(stream, kernel, grid, threads, arguments...)   on the host
//   multiply_add(a, b, c)                 a b + c, rounded once
// Arithmetic is rounded operation by operation (--fmad=false) except where multiply_add stands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "backend/backend.h"
#include "core/dtype.h"

namespace lowrank::cuda {

inline constexpr unsigned kWarp = 32;

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};
struct NoShared {};

// Two 16-bit values in one register, the lower index in the lower half.
using Pair = uint32_t;

enum class MmaFormat { kBF16, kF16 };

struct alignas(16) Words4 {
  uint32_t w[4];
};
struct alignas(8) Words2 {
  uint32_t w[2];
};

}  // namespace lowrank::cuda

#ifdef __CUDACC__
#include "cuda/target_nvcc.cuh"
#else
#include <model/target_model.h>
#endif

namespace lowrank::cuda {

constexpr int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }
template <typename T>
constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr T larger(T a, T b) {
  return a < b ? b : a;
}

LOWRANK_DEVICE inline bool aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

LOWRANK_DEVICE inline unsigned lane_index() { return thread_index() % kWarp; }
LOWRANK_DEVICE inline unsigned warp_index() { return thread_index() / kWarp; }

// ---- Elements -----------------------------------------------------------------------------------

LOWRANK_DEVICE inline float as_float(float x) { return x; }
LOWRANK_DEVICE inline float as_float(BF16 x) { return float_from_bf16(x); }
LOWRANK_DEVICE inline float as_float(F16 x) { return to_float(x); }

template <typename T>
LOWRANK_DEVICE inline T element_from(float x);
template <>
LOWRANK_DEVICE inline float element_from<float>(float x) {
  return x;
}
template <>
LOWRANK_DEVICE inline BF16 element_from<BF16>(float x) {
  return bf16_from_float(x);
}
template <>
LOWRANK_DEVICE inline F16 element_from<F16>(float x) {
  return to_f16(x);
}

LOWRANK_DEVICE inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
LOWRANK_DEVICE inline uint32_t bits_of(BF16 x) { return x.bits; }
LOWRANK_DEVICE inline uint32_t bits_of(F16 x) { return x.bits; }

LOWRANK_DEVICE inline Pair bf16_pair(float low, float high) {
  return static_cast<Pair>(bf16_from_float(low).bits) |
         static_cast<Pair>(bf16_from_float(high).bits) << 16;
}

// Two neighbours, or only the first of them.
LOWRANK_DEVICE inline void store_two(BF16* to, float first, float second, bool both) {
  if (both && aligned(to, sizeof(Pair))) {
    *reinterpret_cast<Pair*>(to) = bf16_pair(first, second);
    return;
  }
  to[0] = element_from<BF16>(first);
  if (both) to[1] = element_from<BF16>(second);
}

// ---- Reductions ---------------------------------------------------------------------------------

struct Add {
  template <typename T>
  LOWRANK_DEVICE T operator()(T a, T b) const {
    return a + b;
  }
};
struct Largest {
  // NaN wins, as it should in an absmax.
  LOWRANK_DEVICE float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};

// Every lane gets the result over groups of `width` neighbouring lanes; the order is fixed.
template <typename T, typename Combine>
LOWRANK_DEVICE inline T warp_reduce(T value, const Combine& combine, unsigned width = kWarp) {
  for (unsigned lanes = width / 2; lanes > 0; lanes /= 2)
    value = combine(value, shuffle_xor(value, lanes));
  return value;
}

// Every thread gets the result over the block. `scratch` holds one value per warp and may be used
// again after the caller's next block_sync().
template <typename T, typename Combine, size_t N>
LOWRANK_DEVICE inline T block_reduce(T value, const Combine& combine, SharedArray<T, N>& scratch) {
  value = warp_reduce(value, combine);
  if (lane_index() == 0) scratch[warp_index()] = value;
  block_sync();
  value = scratch[0];
  for (unsigned warp = 1; warp < block_size() / kWarp; ++warp)
    value = combine(value, scratch[warp]);
  return value;
}

}  // namespace lowrank::cuda
