// The target of device.cuh for nvcc.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "cuda/error.h"

#define LOWRANK_KERNEL __global__
#define LOWRANK_DEVICE __device__
#define LOWRANK_UNROLL _Pragma("unroll")
#define LOWRANK_KEEP_LOOP _Pragma("unroll 1")

namespace lowrank::cuda {

using Stream = cudaStream_t;

__device__ __forceinline__ unsigned thread_index() { return threadIdx.x; }
__device__ __forceinline__ unsigned block_size() { return blockDim.x; }
__device__ __forceinline__ Grid block_index() { return {blockIdx.x, blockIdx.y, blockIdx.z}; }
__device__ __forceinline__ Grid grid_size() { return {gridDim.x, gridDim.y, gridDim.z}; }

__device__ __forceinline__ void block_sync() { __syncthreads(); }
__device__ __forceinline__ void warp_sync() { __syncwarp(); }

template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, unsigned lanes) {
  return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(lanes));
}

extern __shared__ __align__(128) unsigned char shared_bytes_of_block[];
template <typename T>
__device__ __forceinline__ T& shared() {
  return *reinterpret_cast<T*>(shared_bytes_of_block);
}

template <typename T, size_t N>
struct SharedArray {
  T values[N];
  __device__ __forceinline__ T& operator[](size_t i) { return values[i]; }
  __device__ __forceinline__ const T& operator[](size_t i) const { return values[i]; }
  // Two neighbours of 16 bits; i is even.
  __device__ __forceinline__ Pair pair(size_t i) const {
    return *reinterpret_cast<const Pair*>(values + i);
  }
  // 16 bytes at a multiple of as many.
  __device__ __forceinline__ void set_words(size_t i, const Words4& words) {
    *reinterpret_cast<Words4*>(values + i) = words;
  }
  __device__ __forceinline__ void set_pair(size_t i, Pair pair) {
    *reinterpret_cast<Pair*>(values + i) = pair;
  }
};

__device__ __forceinline__ float float_from_bf16(BF16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
__device__ __forceinline__ BF16 bf16_from_float(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return fmaf(a, b, c); }

template <typename T>
__device__ __forceinline__ T load_vector(const void* from) {
  return *static_cast<const T*>(from);
}

// d += a b for one warp: a [16, 16], b [16, 8], d [16, 8] with f32 sums. With g = lane / 4 and
// t = lane % 4 a lane holds (PTX ISA, mma.m16n8k16)
//   a[0] = a(g, 2t..), a[1] = a(g + 8, 2t..), a[2] = a(g, 2t + 8..), a[3] = a(g + 8, 2t + 8..)
//   b[0] = b(2t.., g), b[1] = b(2t + 8.., g)
//   d[0], d[1] = d(g, 2t..), d[2], d[3] = d(g + 8, 2t..)
template <MmaFormat F = MmaFormat::kBF16>
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2]) {
  if constexpr (F == MmaFormat::kBF16)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four 8 x 8 matrices of 16-bit values for one warp (PTX ISA, ldmatrix): lane l points at row l % 8
// of matrix l / 8, 16 bytes at tile[i], and receives of matrix m the pair (row l / 4, columns 2 (l
// % 4) and the next); transposed: rows 2 (l % 4) and the next of column l / 4.
template <bool kTransposed, size_t N>
__device__ __forceinline__ void load_matrices(const SharedArray<BF16, N>& tile, size_t i,
                                              Pair (&to)[4]) {
  const auto row = static_cast<uint32_t>(__cvta_generic_to_shared(tile.values + i));
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

// PTX ISA, cp.async: past the first-level cache, since a block reads each element once.
template <typename T, size_t N>
__device__ __forceinline__ void copy_async(SharedArray<T, N>& to, size_t i, const void* from) {
  const auto target = static_cast<uint32_t>(__cvta_generic_to_shared(to.values + i));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target),
               "l"(__cvta_generic_to_global(from))
               : "memory");
}
__device__ __forceinline__ void copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft) : "memory");
}

template <typename Shared>
constexpr size_t shared_size() {
  return std::is_empty_v<Shared> ? 0 : sizeof(Shared);
}

// A grid without blocks is no work.
template <typename Shared, typename... Parameters, typename... Arguments>
void launch(Stream stream, void (*kernel)(Parameters...), Grid grid, unsigned threads,
            const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  constexpr size_t bytes = shared_size<Shared>();
  if (bytes > (size_t{48} << 10))
    check_cuda(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of a kernel");
  kernel<<<dim3(grid.x, grid.y, grid.z), threads, bytes, stream>>>(Parameters(arguments)...);
  check_cuda(cudaGetLastError(), "launch of a kernel");
}

}  // namespace lowrank::cuda
