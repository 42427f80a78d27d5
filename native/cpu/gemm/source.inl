// A row-major matrix of any storage type, and reading part of one row as f32.

constexpr int64_t kStripCols = 256;  // the longest run that a right operand is packed in

enum class Element : uint8_t { kF32, kBF16, kF16, kNF4, kInt8 };

struct Source {
  const void* data = nullptr;
  Element element = Element::kF32;
  int64_t stride = 0;              // elements between rows
  const Weight* weight = nullptr;  // NF4 and int8: their scales
  const int32_t* rows = nullptr;   // row i stands at rows[i]
  float scale = 1;
  // Dropout on the element at row * dropout_cols + col; kept ones are multiplied by `keep_scale`.
  bool dropout = false;
  uint64_t dropout_key = 0;
  uint32_t dropout_threshold = 0;
  float keep_scale = 1;
  int64_t dropout_cols = 0;
  int64_t dropout_row = 0;  // the number of row 0
  int64_t zero_before = 0;  // rows before this one read as zero
};

// Whether its elements count as they stand.
LOWRANK_INLINE bool is_unchanged(const Source& source) {
  return !source.dropout && source.scale == 1 && source.zero_before == 0;
}

LOWRANK_INLINE Source source_of(const Matrix& matrix) {
  Source source;
  source.data = matrix.data;
  source.element = matrix.dtype == DType::kBF16 ? Element::kBF16 : Element::kF32;
  source.stride = matrix.stride;
  return source;
}

LOWRANK_INLINE Source source_of(const float* data, int64_t stride) {
  Source source;
  source.data = data;
  source.stride = stride;
  return source;
}

LOWRANK_INLINE Source source_of(const Weight& weight) {
  Source source;
  source.data = weight.data;
  source.weight = &weight;
  source.stride = weight.cols;
  switch (weight.storage) {
    case Storage::kF32:
      source.element = Element::kF32;
      break;
    case Storage::kBF16:
      source.element = Element::kBF16;
      break;
    case Storage::kF16:
      source.element = Element::kF16;
      break;
    case Storage::kNF4:
      source.element = Element::kNF4;
      break;
    case Storage::kInt8:
      source.element = Element::kInt8;
      break;
  }
  return source;
}

// This unit's own copy: the address of an inline constant would be a weak symbol.
constexpr auto kOwnNf4Values = kNf4Values;
constexpr const float* kCodeBook = &kOwnNf4Values[0];

LOWRANK_INLINE float block_absmax(const Weight& weight, int64_t block) {
  if (weight.absmax) return weight.absmax[block];
  const float scaled = weight.nested_code[weight.absmax_codes[block]] *
                       weight.nested_absmax[block / kNf4NestedBlock];
  return scaled + weight.nested_offset;
}

// Of the low 4 bits of each lane.
LOWRANK_INLINE F32 code_values(I32 index) {
#if LOWRANK_VECTOR_BYTES == 64
  return (F32)_mm512_permutexvar_ps((__m512i)index, (__m512)load(kCodeBook));
#elif LOWRANK_VECTOR_BYTES == 32
  const __m256 low = _mm256_permutevar8x32_ps((__m256)load(kCodeBook), (__m256i)index);
  const __m256 high = _mm256_permutevar8x32_ps((__m256)load(kCodeBook + 8), (__m256i)index);
  return (F32)_mm256_blendv_ps(low, high, (__m256)(index << 28));
#else
  index &= 15;
  return F32{kCodeBook[index[0]], kCodeBook[index[1]], kCodeBook[index[2]], kCodeBook[index[3]]};
#endif
}

// A whole block of 64 codes: 32 bytes, the even element in the high nibble.
LOWRANK_INLINE void decode_nf4_block(const uint8_t* codes, float absmax, float* out) {
  using Bytes = uint8_t __attribute__((vector_size(kNf4Block / 2)));
  const Bytes pairs = load_raw<Bytes>(codes);
  uint8_t high[kNf4Block / 2], low[kNf4Block / 2], unpacked[kNf4Block];
  const Bytes even = pairs >> 4, odd = pairs & 15;
  __builtin_memcpy(high, &even, sizeof high);
  __builtin_memcpy(low, &odd, sizeof low);
  for (int64_t i = 0; i < kNf4Block / 2; ++i) {
    unpacked[2 * i] = high[i];
    unpacked[2 * i + 1] = low[i];
  }
  for (int64_t i = 0; i < kNf4Block; i += kLanes)
    store(out + i, code_values(load_bytes(unpacked + i)) * absmax);
}

// Not inlined: one copy per unit keeps the packing loops small.
__attribute__((noinline)) void decode_nf4(const Weight& weight, int64_t first, int64_t count,
                                          float* out) {
  const uint8_t* codes = static_cast<const uint8_t*>(weight.data);
  int64_t i = 0;
  while (i < count) {
    const int64_t element = first + i;
    const int64_t block = element / kNf4Block;
    if (element % kNf4Block == 0 && count - i >= kNf4Block) {
      decode_nf4_block(codes + element / 2, block_absmax(weight, block), out + i);
      i += kNf4Block;
      continue;
    }
    const int64_t end = smaller(count, i + kNf4Block - element % kNf4Block);
    const float absmax = block_absmax(weight, block);
    for (; i < end; ++i) {
      const int64_t e = first + i;
      const uint8_t pair = codes[e / 2];
      out[i] = kCodeBook[e % 2 == 0 ? pair >> 4 : pair & 15] * absmax;
    }
  }
}

template <typename T>
LOWRANK_INLINE void convert_run(const T* from, int64_t count, float* out) {
  for_each_vector(count, [&](int64_t i, int64_t n) { store_n(out + i, load_n(from + i, n), n); });
}

// Four decisions come from one draw. `flatten`: shared inline functions must not be emitted here.
__attribute__((noinline, flatten)) void apply_dropout(const Source& source, int64_t row,
                                                      int64_t col, int64_t count, float* out) {
  const uint64_t first =
      static_cast<uint64_t>((row + source.dropout_row) * source.dropout_cols + col);
  const uint64_t end = first + static_cast<uint64_t>(count);
  for (uint64_t group = first / 4; group * 4 < end; ++group) {
    const Philox4 bits = philox4x32(source.dropout_key, group, 0);
    for (uint64_t i = 0; i < 4; ++i) {
      const uint64_t index = group * 4 + i;
      if (index < first || index >= end) continue;
      float& value = out[index - first];
      value = bits.v[i] >= source.dropout_threshold ? value * source.keep_scale : 0.0f;
    }
  }
}

// out[i] = element (row, col + i), i < count.
__attribute__((noinline)) void read_run(const Source& source, int64_t row, int64_t col,
                                        int64_t count, float* out) {
  if (row < source.zero_before) {
    for (int64_t i = 0; i < count; ++i) out[i] = 0;
    return;
  }
  const int64_t at = (source.rows ? source.rows[row] : row) * source.stride + col;
  switch (source.element) {
    case Element::kF32:
      convert_run(static_cast<const float*>(source.data) + at, count, out);
      break;
    case Element::kBF16:
      convert_run(static_cast<const BF16*>(source.data) + at, count, out);
      break;
    case Element::kF16:
      convert_run(static_cast<const F16*>(source.data) + at, count, out);
      break;
    case Element::kNF4:
      decode_nf4(*source.weight, at, count, out);
      break;
    case Element::kInt8: {
      const int8_t* codes = static_cast<const int8_t*>(source.data) + at;
      const float scale = source.weight->row_scale[row];
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(codes[i]) * scale;
      break;
    }
  }
  if (source.dropout) apply_dropout(source, row, col, count, out);
  if (source.scale != 1)
    for_each_vector(count, [&](int64_t i, int64_t n) {
      store_n(out + i, load_n(out + i, n) * source.scale, n);
    });
}

// The same for runs of a few elements, where a call would cost more than the work.
LOWRANK_INLINE void read_short_run(const Source& source, int64_t row, int64_t col, int64_t count,
                                   float* out) {
  const bool plain = (source.element == Element::kF32 || source.element == Element::kBF16) &&
                     !source.dropout && source.scale == 1 && row >= source.zero_before;
  if (!plain) {
    read_run(source, row, col, count, out);
    return;
  }
  const int64_t at = (source.rows ? source.rows[row] : row) * source.stride + col;
  if (source.element == Element::kF32)
    __builtin_memcpy(out, static_cast<const float*>(source.data) + at,
                     static_cast<size_t>(count) * 4);
  else
    convert_run(static_cast<const BF16*>(source.data) + at, count, out);
}

// An operand of a product. Left operands are [M, K]: rows of the source are m, or k when
// transposed. Right operands are [K, N]: rows of the source are k, or n when transposed (a weight
// [out, in] read forward).
struct Operand {
  Source source;
  bool transposed = false;
};
