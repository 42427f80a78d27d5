// What the ops are tested on, as data: shapes that don't divide evenly by any vector or tile, and
// shapes that do; every type and storage. The same list serves every backend and the benches.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace lowrank::test {

inline constexpr DType kActivations[] = {DType::kF32, DType::kBF16};

struct StorageCase {
  const char* name;
  Storage storage;
  bool double_quant;
};
inline constexpr StorageCase kStorages[] = {
    {"f32", Storage::kF32, false},       {"bf16", Storage::kBF16, false},
    {"f16", Storage::kF16, false},       {"nf4", Storage::kNF4, false},
    {"nf4-double", Storage::kNF4, true}, {"int8", Storage::kInt8, false}};

struct RowCase {  // rms_norm, casts, embeddings, gated activations
  int64_t rows, cols;
};
inline constexpr RowCase kRowCases[] = {{1, 1},   {3, 7},    {5, 64},   {2, 100},
                                        {37, 33}, {70, 257}, {9, 2050}, {200, 128}};

struct SegmentCase {
  int64_t row_begin, row_end;
  int32_t rank;
  float scale, dropout;
  bool trained = true;
};

enum class Residual { kNone, kSeparate, kOutput };

struct LinearCase {
  std::string name;
  int64_t tokens, in, out;
  bool bias = false;
  Residual residual = Residual::kNone;
  bool y_f32 = false;  // f32 output also from bf16 input
  std::vector<SegmentCase> segments;
  bool accumulate_d_x = false, d_x = true, d_weight = false, d_bias = false;
};

inline std::vector<LinearCase> linear_cases() {
  return {
      {"one token", 1, 64, 96, false, Residual::kNone, false, {{0, 1, 4, 2, 0}}},
      {"one token, long rows", 1, 448, 40, true, Residual::kSeparate, false, {{0, 1, 5, 0.5f, 0}}},
      {"one token, many outputs", 1, 256, 1100, false, Residual::kNone, false, {}},
      // So deep that fewer rows of an NF4 weight go side by side, and their scales in parts.
      {"one token, deep", 1, 4480, 43, false, Residual::kNone, false, {}},
      {"one token, deeper", 1, 8512, 9, false, Residual::kNone, false, {}},
      {"two tokens", 2, 192, 41, false, Residual::kNone, false, {{0, 2, 4, 1, 0}}},
      {"seven tokens", 7, 320, 37, false, Residual::kOutput, false, {}},
      {"few tokens", 5, 65, 33, true, Residual::kSeparate, false, {}, false, true, true, true},
      {"plain", 37, 100, 70, false, Residual::kOutput, false, {}},
      {"even", 64, 128, 128, true, Residual::kNone, true, {{0, 64, 16, 2, 0}}, true, true, true},
      {"adapter", 70, 96, 130, true, Residual::kNone, false, {{0, 70, 8, 0.5f, 0}}, true},
      {"dropout", 33, 72, 48, false, Residual::kOutput, false, {{0, 33, 7, 1.5f, 0.25f}}},
      {"many adapters",
       41,
       80,
       50,
       true,
       Residual::kSeparate,
       false,
       {{0, 9, 4, 2, 0}, {9, 10, 16, 1, 0.5f}, {13, 41, 3, 0.7f, 0.1f, false}},
       false,
       true,
       true},
      {"only adapter gradients",
       19,
       64,
       40,
       false,
       Residual::kNone,
       false,
       {{2, 17, 8, 1, 0}},
       false,
       false,
       false,
       true},
      {"long", 300, 48, 31, false, Residual::kNone, false, {{0, 300, 5, 1, 0}}, false, true, true},
      {"deep", 300, 288, 96, false, Residual::kNone, false, {{0, 300, 16, 1, 0}}, true, true, true},
      // More columns than a task of an adapter's gradient takes, and ranks in two parts.
      {"wide adapter", 67, 64, 1088, false, Residual::kNone, false, {{0, 67, 24, 1, 0}}},
      {"wide", 6, 515, 300, false, Residual::kNone, true, {{0, 6, 33, 1, 0}}, true},
      {"blocks of depth", 70, 700, 96, false, Residual::kSeparate, false, {{0, 70, 4, 1, 0}}, true},
      {"blocks of depth, in place", 64, 640, 64, false, Residual::kOutput, false, {}, true},
      // What a vendor's library may multiply as well.
      {"large", 131, 160, 136, false, Residual::kSeparate, false, {}, false, true, true},
      {"large, in place", 144, 136, 128, false, Residual::kOutput, false, {}, true, true, true},
      {"large, f32 output", 129, 128, 136, false, Residual::kNone, true, {}, true},
  };
}

struct AttentionCase {
  std::string name;
  int32_t heads, kv_heads, head_dim, window;
  std::vector<int32_t> q_lengths, k_lengths;  // per document
};

inline std::vector<AttentionCase> attention_cases() {
  return {
      {"one token", 2, 2, 16, 0, {1}, {1}},
      {"short", 2, 1, 8, 0, {7}, {7}},
      {"packed", 4, 2, 32, 0, {5, 1, 33, 20}, {5, 1, 33, 20}},
      {"odd head size", 3, 1, 20, 0, {19, 30}, {19, 30}},
      {"large head", 2, 2, 128, 0, {40}, {40}},
      {"window", 2, 1, 16, 5, {3, 29, 17}, {3, 29, 17}},
      {"window of one", 2, 2, 16, 1, {9}, {9}},
      {"cache", 4, 2, 16, 0, {1, 3, 6}, {50, 3, 21}},
      {"cache and window", 2, 1, 64, 8, {4, 1}, {40, 13}},
      {"empty document", 2, 2, 16, 0, {4, 0, 5}, {4, 0, 5}},
      {"long", 2, 1, 64, 0, {150}, {150}},
      {"window across tiles", 2, 1, 64, 40, {131}, {131}},
      {"group of four after a cache", 4, 1, 128, 0, {70}, {140}},
      {"documents in parts", 2, 1, 32, 0, {130, 70, 66}, {130, 90, 66}},
      {"head of 80", 2, 1, 80, 0, {35}, {35}},
      {"head of 96", 3, 3, 96, 4, {10, 9}, {10, 20}},
      {"head of 256", 2, 1, 256, 0, {19, 6}, {19, 33}},
      {"head of 256 and window", 2, 2, 256, 7, {37}, {37}},
  };
}

struct HeadLossCase {
  std::string name;
  int64_t tokens, hidden, vocabulary;
  std::vector<int32_t> rows;
  bool d_x = true, d_weight = false, bias = false;
};

inline std::vector<HeadLossCase> head_loss_cases() {
  std::vector<int32_t> every, all, many, most;
  for (int32_t i = 2; i < 399; ++i) many.push_back(i);
  for (int32_t i = 0; i < 90; i += 2) every.push_back(i);
  for (int32_t i = 0; i < 150; ++i)
    if (i % 9 != 4) most.push_back(i);
  for (int32_t i = 0; i < 33; ++i) all.push_back(i);
  return {
      {"no label", 4, 16, 20, {}},
      {"one label", 9, 40, 65, {4}},
      {"all rows", 33, 64, 128, all, true, true, true},
      {"every other row", 90, 96, 301, every, true, true},
      {"forward only", 12, 33, 1000, {0, 5, 11}, false, false, true},
      {"large vocabulary", 20, 32, 5003, {1, 2, 3, 10, 19}, true, false},
      {"many rows", 400, 24, 600, many, true, false, true},
      {"large", 150, 136, 264, most, true, true},
      {"several parts", 6, 40, 8300, {0, 1, 3, 5}, true, false},
      {"weights only", 7, 24, 50, {2, 3}, false, true, true},
  };
}

struct RopeCase {
  int64_t rows;
  int32_t heads, head_dim, rotary_dim;
};
inline constexpr RopeCase kRopeCases[] = {{1, 1, 2, 2},    {7, 3, 16, 16}, {33, 2, 20, 20},
                                          {40, 4, 64, 64}, {9, 2, 48, 24}, {50, 3, 128, 128}};

}  // namespace lowrank::test
