// NF4, double quantization and 8-bit AdamW, compiled once per instruction set (cpu/isa/README.md).
// Bit for bit the scalar reference: nothing here rounds in another place.
#include "core/dynamic_map.h"
#include "core/nf4.h"
#include "cpu/cpu_device.h"
#include "cpu/isa/kernels.h"
#include "cpu/quantization_parts.h"
#include "cpu/simd.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

// Copies of this unit's own: the address of an inline constant would be a weak symbol.
constexpr auto kOwnThresholds = kNf4Thresholds;
constexpr auto kOwnValues = kNf4Values;
constexpr const float* kThresholds = &kOwnThresholds[0];
constexpr const float* kCodeBook = &kOwnValues[0];

#include "cpu/kernels/quantization_blocks.inl"

constexpr int64_t kBlocksPerTask = 512;
constexpr int64_t kNestedPerTask = 32;

LOWRANK_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename X>
void quantize_nf4_block(const X* from, uint8_t* codes, float* absmax) {
  *absmax = absmax_of<kNf4Block>([&](int64_t i) { return load(from + i); });
  const float inverse = inverse_absmax(*absmax);
  uint8_t unpacked[kNf4Block];
  for (int64_t i = 0; i < kNf4Block; i += kLanes)
    store_codes(unpacked + i, nf4_codes(clamp_to_unit(load(from + i) * inverse)));
  for (int64_t i = 0; i < kNf4Block / 2; ++i)
    codes[i] = static_cast<uint8_t>(unpacked[2 * i] << 4 | unpacked[2 * i + 1]);
}

template <typename X>
void quantize_nf4_blocks(CpuDevice& device, const QuantizeNf4& op) {
  const X* from = static_cast<const X*>(op.from);
  const int64_t blocks = op.count / kNf4Block;
  device.pool.parallel_for((blocks + kBlocksPerTask - 1) / kBlocksPerTask, [&](int64_t task, int) {
    const int64_t end = smaller((task + 1) * kBlocksPerTask, blocks);
    for (int64_t block = task * kBlocksPerTask; block < end; ++block)
      quantize_nf4_block(from + block * kNf4Block, op.codes + block * (kNf4Block / 2),
                         op.absmax + block);
  });
  if (blocks * kNf4Block == op.count) return;
  QuantizeNf4 rest = op;
  rest.from = from + blocks * kNf4Block;
  rest.count = op.count - blocks * kNf4Block;
  rest.codes = op.codes + blocks * (kNf4Block / 2);
  rest.absmax = op.absmax + blocks;
  reference_table().quantize_nf4(device, rest);
}

void quantize_nf4(CpuDevice& device, const QuantizeNf4& op) {
  if (op.from_dtype == DType::kBF16)
    quantize_nf4_blocks<BF16>(device, op);
  else if (op.from_dtype == DType::kF16)
    quantize_nf4_blocks<F16>(device, op);
  else
    quantize_nf4_blocks<float>(device, op);
}

void quantize_absmax(CpuDevice& device, const QuantizeAbsmax& op) {
  double sum = 0;  // in the reference's order
  for (int64_t i = 0; i < op.count; ++i) sum += static_cast<double>(op.absmax[i]);
  const float offset = static_cast<float>(sum) / static_cast<float>(op.count);
  const float* thresholds = &signed_dynamic_map().thresholds[0];
  const int64_t blocks = op.count / kNf4NestedBlock;
  if (blocks * kNf4NestedBlock < op.count) {
    // The scalar path for the short last block; it must see the offset of the whole.
    quantize_8bit_block(op.absmax + blocks * kNf4NestedBlock, op.count - blocks * kNf4NestedBlock,
                        offset, op.codes + blocks * kNf4NestedBlock, op.nested_absmax + blocks);
  }
  device.pool.parallel_for((blocks + kNestedPerTask - 1) / kNestedPerTask, [&](int64_t task, int) {
    const int64_t end = smaller((task + 1) * kNestedPerTask, blocks);
    for (int64_t block = task * kNestedPerTask; block < end; ++block) {
      const int64_t begin = block * kNf4NestedBlock;
      float centred[kNf4NestedBlock];
      for (int64_t i = 0; i < kNf4NestedBlock; ++i) centred[i] = op.absmax[begin + i] - offset;
      quantize_dynamic(centred, thresholds, op.codes + begin, op.nested_absmax + block);
    }
  });
  *op.offset = offset;
}

// The twin of reference::quantize_int8 for one row.
template <typename X>
void quantize_int8_row(const X* from, int64_t cols, int8_t* codes, float* row_scale) {
  F32 largest{};
  I32 unordered{};
  for_each_vector(cols, [&](int64_t i, int64_t n) {
    const F32 x = load_n(from + i, n);
    largest = max(abs(x), largest);
    unordered |= x != x;
  });
  bool any = false;
  for (int lane = 0; lane < kLanes; ++lane) any |= unordered[lane] != 0;
  const float absmax = any ? __builtin_nanf("") : reduce_max(largest);
  *row_scale = absmax / 127.0f;
  if (!__builtin_isfinite(absmax)) {
    for (int64_t i = 0; i < cols; ++i) codes[i] = 0;
    return;
  }
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float factor = 127.0f / (absmax < kMinInt8Absmax ? kMinInt8Absmax : absmax);
  for_each_vector(cols, [&](int64_t i, int64_t n) {
    const F32 rounded = load_n(from + i, n) * factor + kRound;
    uint8_t bytes[kLanes];
    store_codes(bytes, ((I32)rounded - (I32)splat(kRound)) & 255);
    for (int64_t j = 0; j < n; ++j) codes[i + j] = static_cast<int8_t>(bytes[j]);
  });
}

template <typename X>
void quantize_int8_rows(CpuDevice& device, const QuantizeInt8& op) {
  const X* from = static_cast<const X*>(op.from);
  device.pool.parallel_for(op.rows, [&](int64_t row, int) {
    quantize_int8_row(from + row * op.cols, op.cols, op.codes + row * op.cols, op.row_scale + row);
  });
}

void quantize_int8(CpuDevice& device, const QuantizeInt8& op) {
  if (op.from_dtype == DType::kBF16)
    quantize_int8_rows<BF16>(device, op);
  else if (op.from_dtype == DType::kF16)
    quantize_int8_rows<F16>(device, op);
  else
    quantize_int8_rows<float>(device, op);
}

// Lane i of the result is the code book's entry number index[i].
LOWRANK_INLINE F32 nf4_values(I32 index) {
#if LOWRANK_VECTOR_BYTES == 64
  return (F32)_mm512_permutexvar_ps((__m512i)index, (__m512)load(kCodeBook));
#elif LOWRANK_VECTOR_BYTES == 32
  const __m256 low = _mm256_permutevar8x32_ps((__m256)load(kCodeBook), (__m256i)index);
  const __m256 high = _mm256_permutevar8x32_ps((__m256)load(kCodeBook + 8), (__m256i)index);
  return index > 7 ? (F32)high : (F32)low;
#else
  return gather(kCodeBook, index);
#endif
}

LOWRANK_INLINE float absmax_at(const Weight& weight, int64_t block) {
  if (weight.absmax) return weight.absmax[block];
  const float scaled = weight.nested_code[weight.absmax_codes[block]] *
                       weight.nested_absmax[block / kNf4NestedBlock];
  return scaled + weight.nested_offset;
}

template <typename X>
void dequantize_nf4_block(const uint8_t* codes, float absmax, int64_t count, X* to) {
  uint8_t unpacked[kNf4Block];
  for (int64_t i = 0; i < (count + 1) / 2; ++i) {
    unpacked[2 * i] = codes[i] >> 4;
    unpacked[2 * i + 1] = codes[i] & 15;
  }
  for_each_vector(count, [&](int64_t i, int64_t n) {
    store_n(to + i, nf4_values(load_codes(unpacked + i)) * absmax, n);
  });
}

template <typename X>
void dequantize_nf4(CpuDevice& device, const Dequantize& op) {
  const uint8_t* codes = static_cast<const uint8_t*>(op.weight.data);
  X* to = static_cast<X*>(op.to);
  const int64_t count = op.weight.rows * op.weight.cols;
  const int64_t blocks = (count + kNf4Block - 1) / kNf4Block;
  device.pool.parallel_for((blocks + kBlocksPerTask - 1) / kBlocksPerTask, [&](int64_t task, int) {
    const int64_t end = smaller((task + 1) * kBlocksPerTask, blocks);
    for (int64_t block = task * kBlocksPerTask; block < end; ++block) {
      const int64_t begin = block * kNf4Block;
      dequantize_nf4_block(codes + begin / 2, absmax_at(op.weight, block),
                           smaller(kNf4Block, count - begin), to + begin);
    }
  });
}

void dequantize(CpuDevice& device, const Dequantize& op) {
  if (op.weight.storage != Storage::kNF4)
    reference_table().dequantize(device, op);
  else if (op.to_dtype == DType::kBF16)
    dequantize_nf4<BF16>(device, op);
  else if (op.to_dtype == DType::kF16)
    dequantize_nf4<F16>(device, op);
  else
    dequantize_nf4<float>(device, op);
}

// One whole block; the scalar twin is reference/adamw_8bit.h.
void adamw_8bit_whole_block(const AdamWScalars& s, const AdamWTensor& tensor,
                            const DynamicMap& m_map, const DynamicMap& v_map, int64_t block) {
  const int64_t begin = block * kOptimizerBlock;
  float* parameter = tensor.parameter + begin;
  float* gradient = tensor.gradient + begin;
  uint8_t* m_codes = tensor.m_codes + begin;
  uint8_t* v_codes = tensor.v_codes + begin;
  float m[kOptimizerBlock], v[kOptimizerBlock];
  const float m_absmax = tensor.m_absmax[block], v_absmax = tensor.v_absmax[block];
  for (int64_t i = 0; i < kOptimizerBlock; i += kLanes) {
    const F32 g = load(gradient + i) * s.grad_scale;
    const F32 old_m = gather(&m_map.values[0], load_codes(m_codes + i)) * m_absmax;
    const F32 old_v = gather(&v_map.values[0], load_codes(v_codes + i)) * v_absmax;
    const F32 new_m = s.beta1 * old_m + s.one_minus_beta1 * g;
    const F32 new_v = s.beta2 * old_v + s.one_minus_beta2 * (g * g);
    const F32 update = new_m / (sqrt(new_v) * s.v_correction + s.eps);
    store(parameter + i, load(parameter + i) * s.decay - s.step_size * update);
    store(gradient + i, F32{});
    store(m + i, new_m);
    store(v + i, new_v);
  }
  quantize_dynamic(m, &m_map.thresholds[0], m_codes, &tensor.m_absmax[block]);
  quantize_dynamic(v, &v_map.thresholds[0], v_codes, &tensor.v_absmax[block]);
}

constexpr int64_t kOptimizerTask = 64;  // blocks

LOWRANK_INLINE int64_t optimizer_tasks(const AdamWTensor& tensor) {
  constexpr int64_t kValues = kOptimizerTask * kOptimizerBlock;
  return (tensor.count + kValues - 1) / kValues;
}

void adamw_8bit(CpuDevice& device, const AdamW& op) {
  const DynamicMap& m_map = signed_dynamic_map();
  const DynamicMap& v_map = unsigned_dynamic_map();
  int64_t tasks = 0;
  for (int32_t t = 0; t < op.tensor_count; ++t) tasks += optimizer_tasks(op.tensors[t]);
  device.pool.parallel_for(tasks, [&](int64_t task, int) {
    int32_t t = 0;
    for (; task >= optimizer_tasks(op.tensors[t]); ++t) task -= optimizer_tasks(op.tensors[t]);
    const AdamWTensor& tensor = op.tensors[t];
    const AdamWScalars scalars = adamw_scalars(op, tensor);
    const int64_t blocks = (tensor.count + kOptimizerBlock - 1) / kOptimizerBlock;
    const int64_t end = smaller((task + 1) * kOptimizerTask, blocks);
    for (int64_t block = task * kOptimizerTask; block < end; ++block) {
      if ((block + 1) * kOptimizerBlock <= tensor.count)
        adamw_8bit_whole_block(scalars, tensor, m_map, v_map, block);
      else
        adamw_8bit_block(scalars, tensor, block);
    }
  });
}

}  // namespace

void register_quantization(KernelTable& table) {
  table.quantize_nf4 = quantize_nf4;
  table.quantize_absmax = quantize_absmax;
  table.quantize_int8 = quantize_int8;
  table.dequantize = dequantize;
  table.adamw_8bit = adamw_8bit;
}

}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
