// Scalar int8, NF4 and 8-bit block-wise quantization (Dettmers et al., arXiv 2305.14314 and
// 2110.02861), bit for bit as bitsandbytes' portable torch operators define them:
//   absmax = max |x| of a block, in f32; a short last block's is at least kMinAbsmax
//   scaled = clamp(x * (1 / max(absmax, kMinAbsmax)), -1, 1); a short last block divides instead
//   code   = number of thresholds below `scaled` (a tie takes the lower code)
// bitsandbytes' CUDA kernels are built with approximate division, and its CPU library looks 8-bit
// codes up in a table of 2^16 cells; both may pick the neighbouring code for a value that lies
// within rounding of a threshold. The values that a given code stands for are the same everywhere.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "backend/backend.h"
#include "core/dtype.h"
#include "core/dynamic_map.h"
#include "core/nf4.h"

namespace lowrank::reference {

inline float load_float(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::kBF16) return to_float(static_cast<const BF16*>(data)[index]);
  if (dtype == DType::kF16) return to_float(static_cast<const F16*>(data)[index]);
  return static_cast<const float*>(data)[index];
}

inline void store_float(void* data, DType dtype, int64_t index, float value) {
  if (dtype == DType::kBF16)
    static_cast<BF16*>(data)[index] = to_bf16(value);
  else if (dtype == DType::kF16)
    static_cast<F16*>(data)[index] = to_f16(value);
  else
    static_cast<float*>(data)[index] = value;
}

// A block's largest magnitude; NaN when the block holds one.
template <typename Load>
float block_absmax(int64_t begin, int64_t end, bool full, const Load& load) {
  float absmax = 0;
  for (int64_t i = begin; i < end; ++i) {
    const float magnitude = std::abs(load(i));
    if (magnitude > absmax || std::isnan(magnitude)) absmax = magnitude;
    if (std::isnan(absmax)) return absmax;
  }
  return full ? absmax : std::max(absmax, kMinAbsmax);
}

// Maps x into [-1, 1] by its block's absmax. NaN stays NaN.
inline float scale_to_unit(float x, float absmax, bool full) {
  const float bound = std::isnan(absmax) ? absmax : std::max(absmax, kMinAbsmax);
  const float scaled = full ? x * (1.0f / bound) : x / bound;
  return scaled < -1 ? -1.0f : scaled > 1 ? 1.0f : scaled;
}

inline uint8_t nf4_code(float scaled) {
  int code = 0;
  for (float threshold : kNf4Thresholds) code += !(threshold >= scaled);
  return static_cast<uint8_t>(code);
}

inline void quantize_nf4(const QuantizeNf4& op) {
  const auto load = [&](int64_t i) { return load_float(op.from, op.from_dtype, i); };
  for (int64_t begin = 0; begin < op.count; begin += kNf4Block) {
    const int64_t end = std::min(begin + kNf4Block, op.count);
    const bool full = end - begin == kNf4Block;
    const float absmax = block_absmax(begin, end, full, load);
    op.absmax[begin / kNf4Block] = absmax;
    for (int64_t i = begin; i < end; i += 2) {
      const uint8_t high = nf4_code(scale_to_unit(load(i), absmax, full));
      // An odd count is padded with a zero.
      const uint8_t low = nf4_code(i + 1 < end ? scale_to_unit(load(i + 1), absmax, full) : 0.0f);
      op.codes[i / 2] = static_cast<uint8_t>(high << 4 | low);
    }
  }
}

// One block of 8-bit codes; writes the block's absmax. `values(i)` yields value i of the block.
template <typename Values>
void quantize_8bit_block(const DynamicMap& map, int64_t count, int64_t block, const Values& values,
                         uint8_t* codes, float* absmax) {
  const bool full = count == block;
  *absmax = block_absmax(0, count, full, values);
  for (int64_t i = 0; i < count; ++i) codes[i] = map.code(scale_to_unit(values(i), *absmax, full));
}

// The mean of the absmax values: summed in f64, so that the order can't matter in f32, then rounded
// to f32 and divided. torch sums in f32 in an order that depends on machine and threads, so its
// mean may differ in the last bits; codes and nested absmax are then exact for the offset stored
// here.
inline float absmax_mean(const float* absmax, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(absmax[i]);
  return static_cast<float>(sum) / static_cast<float>(count);
}

inline void quantize_absmax(const QuantizeAbsmax& op) {
  *op.offset = absmax_mean(op.absmax, op.count);
  for (int64_t begin = 0; begin < op.count; begin += kNf4NestedBlock) {
    const int64_t count = std::min(kNf4NestedBlock, op.count - begin);
    quantize_8bit_block(
        signed_dynamic_map(), count, kNf4NestedBlock,
        [&](int64_t i) { return op.absmax[begin + i] - *op.offset; }, op.codes + begin,
        op.nested_absmax + begin / kNf4NestedBlock);
  }
}

// What a row's values are multiplied by; 0 where codes can't say anything.
inline float int8_factor(float absmax) {
  return std::isfinite(absmax) ? 127.0f / std::max(absmax, kMinInt8Absmax) : 0.0f;
}

inline void quantize_int8(const QuantizeInt8& op) {
  for (int64_t row = 0; row < op.rows; ++row) {
    const auto load = [&](int64_t i) {
      return load_float(op.from, op.from_dtype, row * op.cols + i);
    };
    const float absmax = block_absmax(0, op.cols, true, load), factor = int8_factor(absmax);
    op.row_scale[row] = absmax / 127.0f;
    for (int64_t i = 0; i < op.cols; ++i)
      op.codes[row * op.cols + i] =
          factor == 0 ? int8_t{0} : static_cast<int8_t>(std::nearbyint(load(i) * factor));
  }
}

// Absmax of NF4 block `block`; with double quantization a rounded product and a rounded sum.
inline float nf4_absmax(const Weight& weight, int64_t block) {
  if (weight.absmax) return weight.absmax[block];
  const float scaled = weight.nested_code[weight.absmax_codes[block]] *
                       weight.nested_absmax[block / kNf4NestedBlock];
  return scaled + weight.nested_offset;
}

// Element `index` = row * cols + col of a weight of any storage type.
inline float weight_value(const Weight& weight, int64_t index) {
  switch (weight.storage) {
    case Storage::kF32:
      return load_float(weight.data, DType::kF32, index);
    case Storage::kBF16:
      return load_float(weight.data, DType::kBF16, index);
    case Storage::kF16:
      return load_float(weight.data, DType::kF16, index);
    case Storage::kInt8:
      return static_cast<float>(static_cast<const int8_t*>(weight.data)[index]) *
             weight.row_scale[index / weight.cols];
    case Storage::kNF4: {
      const uint8_t pair = static_cast<const uint8_t*>(weight.data)[index / 2];
      const int code = index % 2 == 0 ? pair >> 4 : pair & 15;
      return kNf4Values[static_cast<size_t>(code)] * nf4_absmax(weight, index / kNf4Block);
    }
  }
  return std::numeric_limits<float>::quiet_NaN();
}

inline void dequantize(const Dequantize& op) {
  const int64_t count = op.weight.rows * op.weight.cols;
  for (int64_t i = 0; i < count; ++i)
    store_float(op.to, op.to_dtype, i, weight_value(op.weight, i));
}

}  // namespace lowrank::reference
