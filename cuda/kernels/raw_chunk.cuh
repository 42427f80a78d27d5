// Eight elements of a weight on their way to a tile, in two steps: what was read from memory, and
// its values. A product lies between the steps, so that nothing waits for memory. NF4 and int8 are
// kept as they are stored; all other kinds are converted to bf16 at once.
#pragma once

#include "cuda/kernels/operand.cuh"

namespace lowrank::cuda {

struct RawChunk {
  Words4 words{};   // NF4: codes, the absmax's code, whether inside; int8: codes; else bf16
  float scale = 0;  // NF4: absmax, or the nested absmax; int8: of the row
};

enum class RawKind { kConverted, kNF4, kInt8 };

// How an operand's chunks are kept; the same for all of them.
LOWRANK_DEVICE inline RawKind raw_kind(const Operand& o) {
  const bool whole = o.values.cols % 8 == 0 && o.stride == o.values.cols && o.scale == 1 &&
                     o.dropout.threshold == 0 && aligned(o.values.data, 8);
  if (whole && o.values.storage == Storage::kNF4) return RawKind::kNF4;
  return whole && o.values.storage == Storage::kInt8 ? RawKind::kInt8 : RawKind::kConverted;
}

// Elements (row, col .. col + 7) in memory's terms.
template <bool kFloats>
LOWRANK_DEVICE inline void read_chunk(const Operand& o, const Tables& tables, RawKind kind,
                                      int64_t row, int64_t col, RawChunk& chunk) {
  if (kFloats || kind == RawKind::kConverted) {
    float v[8];
    load8<kFloats>(o, tables, row, col, v);
    LOWRANK_UNROLL
    for (int i = 0; i < 4; ++i) chunk.words.w[i] = bf16_pair(v[2 * i], v[2 * i + 1]);
    return;
  }
  chunk = {};
  if (row < o.first || row >= o.last || col >= o.values.cols) return;  // a scale of 0
  const int64_t index = row * o.stride + col;
  if (kind == RawKind::kInt8) {
    const auto codes = load_vector<Words2>(static_cast<const int8_t*>(o.values.data) + index);
    chunk.words.w[0] = codes.w[0];
    chunk.words.w[1] = codes.w[1];
    chunk.scale = o.values.row_scale[row];
    return;
  }
  const int64_t block = index / kNf4Block;
  chunk.words.w[0] = load_vector<uint32_t>(static_cast<const uint8_t*>(o.values.data) + index / 2);
  if (o.values.absmax) {
    chunk.scale = o.values.absmax[block];
  } else {
    chunk.words.w[1] = o.values.absmax_codes[block];
    chunk.words.w[2] = 1;
    chunk.scale = o.values.nested_absmax[block / kNf4NestedBlock];
  }
}

// The chunk as bf16; rounds where load8() does.
template <bool kFloats>
LOWRANK_DEVICE inline Words4 chunk_values(const Operand& o, const Tables& tables, RawKind kind,
                                          const RawChunk& chunk) {
  if (kFloats || kind == RawKind::kConverted) return chunk.words;
  float v[8], scale = chunk.scale;
  if (kind == RawKind::kInt8) {
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i)
      v[i] = static_cast<float>(static_cast<int8_t>(chunk.words.w[i / 4] >> (i % 4 * 8)));
  } else {
    if (!o.values.absmax && chunk.words.w[2] != 0)
      scale = o.values.nested_code[chunk.words.w[1]] * scale + o.values.nested_offset;
    LOWRANK_UNROLL
    for (int i = 0; i < 8; ++i)
      v[i] = table_value(tables, chunk.words.w[0] >> (i / 2 * 8 + (i % 2 == 0 ? 4 : 0)) & 15);
  }
  Words4 words;
  LOWRANK_UNROLL
  for (int i = 0; i < 4; ++i) words.w[i] = bf16_pair(v[2 * i] * scale, v[2 * i + 1] * scale);
  return words;
}

}  // namespace lowrank::cuda
