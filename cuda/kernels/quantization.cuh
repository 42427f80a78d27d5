// int8, NF4 and 8-bit block-wise quantization, byte for byte as native/cpu/reference/nf4.h defines
// it:
//   absmax of a block in f32 (a short last block's is at least kMinAbsmax), values scaled into
//   [-1, 1] by one reciprocal (a short block divides), the number of thresholds below.
#pragma once

#include "cuda/kernels/eight_bit.cuh"

namespace lowrank::cuda {

LOWRANK_DEVICE inline unsigned nf4_code(const Tables& tables, float scaled) {
  unsigned code = 0;
  for (size_t i = 0; i < 15; ++i) code += !(tables.nf4_thresholds[i] >= scaled);
  return code;
}

// One warp per block of 64 values, two neighbours per lane.
template <typename From>
LOWRANK_KERNEL void quantize_nf4_kernel(const From* from, int64_t count, const Tables* tables,
                                        uint8_t* codes, float* absmax) {
  const int64_t block = int64_t{block_index().x} * (kRowThreads / kWarp) + warp_index();
  const int64_t begin = block * kNf4Block;
  if (begin >= count) return;  // the whole warp
  const bool full = count - begin >= kNf4Block;
  const int64_t first = begin + 2 * lane_index();
  float values[2] = {0, 0};
  for (int i = 0; i < 2; ++i)
    if (first + i < count) values[i] = as_float(from[first + i]);
  const float largest = warp_reduce(Largest{}(fabsf(values[0]), fabsf(values[1])), Largest{});
  const float bound = stored_absmax(largest, full);
  if (lane_index() == 0) absmax[block] = bound;
  if (first >= count) return;
  const unsigned high = nf4_code(*tables, scale_to_unit(values[0], bound, full));
  // An odd count is padded with a zero, which is a code of its own.
  const unsigned low =
      nf4_code(*tables, first + 1 < count ? scale_to_unit(values[1], bound, full) : 0.0f);
  codes[first / 2] = static_cast<uint8_t>(high << 4 | low);
}

struct MeanShared {
  SharedArray<double, 1024 / kWarp> sums;
};

// *mean of all values by one block: an f64 sum, rounded to f32 and divided.
LOWRANK_KERNEL void mean_kernel(const float* values, int64_t count, float* mean) {
  double sum = 0;
  for (int64_t i = thread_index(); i < count; i += block_size())
    sum += static_cast<double>(values[i]);
  sum = block_reduce(sum, Add{}, shared<MeanShared>().sums);
  if (thread_index() == 0) *mean = static_cast<float>(sum) / static_cast<float>(count);
}

LOWRANK_KERNEL void quantize_absmax_kernel(const float* absmax, int64_t count, const float* offset,
                                           const Tables* tables, uint8_t* codes,
                                           float* nested_absmax) {
  const int64_t block = block_index().x, begin = block * kNf4NestedBlock;
  const int64_t size = smaller<int64_t>(kNf4NestedBlock, count - begin);
  const float value = thread_index() < size ? absmax[begin + thread_index()] - *offset : 0.0f;
  quantize_8bit(tables->signed_map, value, size, codes + begin, nested_absmax + block);
}

inline constexpr unsigned kInt8Threads = 256;

struct Int8Shared {
  SharedArray<float, kInt8Threads / kWarp> largest;
};

// One block per row; a row with a value that isn't finite has a scale that isn't, and codes of 0.
template <typename From>
LOWRANK_KERNEL void quantize_int8_kernel(const From* from, int64_t cols, int8_t* codes,
                                         float* row_scale) {
  const int64_t row = block_index().x, begin = row * cols;
  float largest = 0;
  for (int64_t i = thread_index(); i < cols; i += kInt8Threads)
    largest = Largest{}(fabsf(as_float(from[begin + i])), largest);
  largest = block_reduce(largest, Largest{}, shared<Int8Shared>().largest);
  if (thread_index() == 0) row_scale[row] = largest / 127.0f;
  const bool finite = largest - largest == 0;
  const float factor = finite ? 127.0f / larger(largest, kMinInt8Absmax) : 0.0f;
  for (int64_t i = thread_index(); i < cols; i += kInt8Threads) {
    const float scaled = finite ? as_float(from[begin + i]) * factor : 0.0f;
    codes[begin + i] = static_cast<int8_t>(rintf(scaled));  // ties to even
  }
}

template <typename To>
LOWRANK_KERNEL void dequantize_kernel(Weight weight, const Tables* tables, To* to) {
  for_each_index(weight.rows * weight.cols,
                 [&](int64_t i) { to[i] = element_from<To>(weight_value(weight, *tables, i)); });
}

}  // namespace lowrank::cuda
