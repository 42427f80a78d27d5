// Which stretch of which document an attention block works on, and what it sees.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace lowrank::cuda {

inline constexpr unsigned kAttentionThreads = 128;

struct AttentionArguments {
  const int32_t* q_offsets = nullptr;
  const int32_t* k_offsets = nullptr;
  int32_t documents = 0, heads = 0, kv_heads = 0, head_dim = 0, window = 0;
  int64_t query_rows = 0;
  float scale = 1;
};

// The stretch of one document that a block works on, in rows of the document, and the document.
struct Stretch {
  int64_t begin = 0, end = 0;
  int64_t q_first = 0, k_first = 0, q_count = 0, k_count = 0;
  LOWRANK_DEVICE inline int64_t lag() const { return k_count - q_count; }
};

// Rows of one document: [begin, end).
struct RowRange {
  int64_t begin = 0, end = 0;
};

// Stretch number `index` of `rows` rows when each document is cut from its beginning; false when
// there are fewer. `by_keys` cuts the key side.
LOWRANK_DEVICE inline bool find_stretch(const AttentionArguments& a, int64_t index, int64_t rows,
                                        bool by_keys, Stretch* stretch) {
  for (int32_t d = 0; d < a.documents; ++d) {
    const int64_t q_count = a.q_offsets[d + 1] - a.q_offsets[d];
    const int64_t k_count = a.k_offsets[d + 1] - a.k_offsets[d];
    const int64_t count = by_keys ? k_count : q_count, pieces = divide_up(count, rows);
    if (index < pieces) {
      *stretch = {index * rows,   smaller(count, (index + 1) * rows),
                  a.q_offsets[d], a.k_offsets[d],
                  q_count,        k_count};
      return true;
    }
    index -= pieces;
  }
  return false;
}

// Whether query row `query` of the document sees its key row `key`.
LOWRANK_DEVICE inline bool sees(const AttentionArguments& a, const Stretch& s, int64_t query,
                                int64_t key) {
  const int64_t last = query + s.lag();
  return query < s.q_count && key < s.k_count && key <= last &&
         (a.window == 0 || key > last - a.window);
}

// Keys that any query of the stretch sees.
LOWRANK_DEVICE inline RowRange keys_of_queries(const AttentionArguments& a, const Stretch& s) {
  const int64_t first = a.window > 0 ? s.begin + s.lag() - a.window + 1 : 0;
  return {larger<int64_t>(first, 0), s.end + s.lag()};
}

// Queries that see any key of the stretch.
LOWRANK_DEVICE inline RowRange queries_of_keys(const AttentionArguments& a, const Stretch& s) {
  const int64_t end = a.window > 0 ? smaller(s.q_count, s.end - 1 + a.window - s.lag()) : s.q_count;
  return {larger<int64_t>(0, s.begin - s.lag()), end};
}

}  // namespace lowrank::cuda
