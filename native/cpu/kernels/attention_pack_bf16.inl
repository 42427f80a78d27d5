// Attention's operands as bf16 panels (gemm/pairs.inl). K and V are packed once per document
// and kv head, into the op's workspace; the query side once per task. "Right" panels have the
// packed rows as columns, "deep" panels have them as k.

// One head of consecutive activation rows; beyond `count` rows and `dim` columns everything is 0.
struct HeadRows {
  const uint16_t* data;
  int64_t stride, count, dim;
};

LOWRANK_INLINE int64_t round_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }
LOWRANK_INLINE int64_t padded_dim(int64_t head_dim) { return round_up(head_dim, kPanel); }

inline HeadRows head_rows(const Matrix& matrix, int64_t row, int64_t column, int64_t count,
                          int64_t dim) {
  const uint16_t* data = static_cast<const uint16_t*>(matrix.data) + row * matrix.stride + column;
  return {data, matrix.stride, count, dim};
}

// Columns [column, column + 32) of a row; column < dim.
LOWRANK_INLINE __m512i load_32(const HeadRows& from, int64_t row, int64_t column) {
  if (row >= from.count) return _mm512_setzero_si512();
  const int64_t count = smaller(32, from.dim - column);
  const __mmask32 mask = 0xffffffffu >> (32 - count);
  return _mm512_maskz_loadu_epi16(mask, from.data + row * from.stride + column);
}

// The pairs (even[i], odd[i]), rounded to bf16.
LOWRANK_INLINE void store_pairs(F32 even, F32 odd, uint16_t* to) {
  _mm512_store_si512(to, pairs_of_halves(round_two(even, odd)));
}

// Left panels [row panel][k = dim]: 32 rows each, `panels` of them.
inline void pack_left_rows(const HeadRows& from, int64_t panels, uint16_t* to) {
  const int64_t depth = padded_dim(from.dim);
  for (int64_t row = 0; row < panels * kPanel; ++row) {
    uint16_t* at = to + row / kPanel * kPanel * depth + row % kPanel / 16 * kTile + row % 16 * 32;
    for (int64_t k = 0; k < depth; k += 32, at += kStep)
      _mm512_store_si512(at, load_32(from, row, k));
  }
}

// Half a left panel, [16 rows][k = dim].
inline void pack_left_half(const HeadRows& from, uint16_t* to) {
  for (int64_t row = 0; row < 16; ++row)
    for (int64_t k = 0; k < from.dim; k += 32)
      _mm512_store_si512(to + k / 32 * kStep + row * 32, load_32(from, row, k));
}

// Half a right panel, [k = dim][16 rows as columns].
inline void pack_right_half(const HeadRows& from, uint16_t* to) {
  for (int64_t k = 0; k < from.dim; k += 32, to += kStep) {
    __m512i rows[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = load_32(from, i, k);
    transpose_pairs(rows, to);
  }
}

// Step `step` (32 rows) of right panels [dim panel][k = row], panels `panel_size` elements apart.
inline void pack_right_deep(const HeadRows& from, int64_t step, int64_t panel_size, uint16_t* to) {
  to += step * kStep;
  for (int64_t column = 0; column < from.dim; column += kPanel, to += panel_size) {
    for (int64_t i = 0; i < 16; ++i) {
      const __m512i even = load_32(from, 32 * step + 2 * i, column);
      const __m512i odd = load_32(from, 32 * step + 2 * i + 1, column);
      _mm512_store_si512(to + i * 32, pairs_of(even, odd, 0));
      _mm512_store_si512(to + i * 32 + kTile, pairs_of(even, odd, 1));
    }
  }
}

// The same as left panels: the transposed head, [dim panel][k = row].
inline void pack_left_deep(const HeadRows& from, int64_t step, int64_t panel_size, uint16_t* to) {
  to += step * kStep;
  for (int64_t column = 0; column < from.dim; column += kPanel, to += panel_size) {
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      __m512i rows[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        rows[i] = pairs_of(load_32(from, 32 * step + 2 * i, column),
                           load_32(from, 32 * step + 2 * i + 1, column), half);
      transpose_pairs(rows, to + half * kTile);
    }
  }
}

// Documents with fewer queries don't fill tiles and keep the vector kernels.
constexpr int64_t kTileQueries = 32;

// Where a document's packed keys begin, in rows. Documents with at least kTileQueries queries don't
// overlap although each is filled up to whole panels: the filling (31 rows at most) is smaller than
// the queries that the next document's place counts.
LOWRANK_INLINE int64_t packed_row(const AttentionForward& op, int64_t document) {
  return (int64_t{op.q_offsets[document]} + op.k_offsets[document]) / kPanel * kPanel;
}

// The packed forms of K and V of one document and kv head, filled up to `rows` rows.
struct PackedHead {
  uint16_t* k = nullptr;             // forward: right halves; backward: left rows
  uint16_t* k_transposed = nullptr;  // left deep; backward only
  uint16_t* v = nullptr;             // forward: right deep; backward: left rows
  int64_t rows = 0;
};

// Elements of all forms of a document's head.
LOWRANK_INLINE int64_t packed_elements(int64_t keys, int64_t head_dim, bool backward) {
  return round_up(keys, kPanel) * padded_dim(head_dim) * (backward ? 3 : 2);
}
inline PackedHead packed_head(uint16_t* memory, const Document& document, int64_t head_dim,
                              bool backward) {
  const int64_t rows = round_up(document.keys, kPanel), count = rows * padded_dim(head_dim);
  return {memory, backward ? memory + 2 * count : nullptr, memory + count, rows};
}

// The same in the op's workspace, [document][kv head][form].
inline PackedHead shared_head(const AttentionForward& op, uint16_t* memory,
                              const Document& document, int64_t index, int64_t kv_head,
                              bool backward) {
  const int64_t forms = backward ? 3 : 2, rows = round_up(document.keys, kPanel);
  const int64_t at = packed_row(op, index) * op.kv_heads + kv_head * rows;
  return packed_head(memory + at * forms * padded_dim(op.head_dim), document, op.head_dim,
                     backward);
}

// Packs keys [begin, end) of a document (multiples of kPanel) for one kv head.
inline void pack_keys(const AttentionForward& op, const Document& document, int64_t kv_head,
                      const PackedHead& head, int64_t begin, int64_t end) {
  const int64_t dim = op.head_dim, column = kv_head * dim, panel_size = kPanel * head.rows;
  const HeadRows k = head_rows(op.k, document.k_begin, column, document.keys, dim);
  const HeadRows v = head_rows(op.v, document.k_begin, column, document.keys, dim);
  for (int64_t row = begin; row < end; row += kPanel) {
    const auto rest = [&](const HeadRows& all, int64_t from) {
      return HeadRows{all.data + from * all.stride, all.stride, all.count - from, dim};
    };
    const int64_t at = row * padded_dim(dim);
    if (head.k_transposed) {
      pack_left_rows(rest(k, row), 1, head.k + at);
      pack_left_deep(k, row / kPanel, panel_size, head.k_transposed);
      pack_left_rows(rest(v, row), 1, head.v + at);
    } else {
      for (int64_t half = 0; half < kPanel; half += 16)
        pack_right_half(rest(k, row + half), head.k + at + half / 16 * kTile);
      pack_right_deep(v, row / kPanel, panel_size, head.v);
    }
  }
}

// Packs every document that the tiles work on into the workspace.
inline void pack_all_keys(CpuDevice& device, const AttentionForward& op, uint16_t* memory,
                          bool backward) {
  constexpr int64_t kRows = 4 * kPanel;
  const int64_t total = round_up(op.q.rows + op.k.rows, kPanel);
  const int64_t chunks = (total + kRows - 1) / kRows;
  device.pool.parallel_for(chunks * op.kv_heads, [&](int64_t task, int) {
    const int64_t first = task / op.kv_heads * kRows, last = first + kRows;
    int64_t low = 0, high = op.documents;  // the last document that begins at or before `first`
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (packed_row(op, middle) <= first ? low : high) = middle;
    }
    for (int64_t d = low; d < op.documents && packed_row(op, d) < last; ++d) {
      const Document document(op, d);
      if (document.queries < kTileQueries) continue;
      const int64_t kv_head = task % op.kv_heads;
      pack_keys(op, document, kv_head, shared_head(op, memory, document, d, kv_head, backward),
                larger(0, first - packed_row(op, d)),
                smaller(round_up(document.keys, kPanel), last - packed_row(op, d)));
    }
  });
}

inline size_t packed_bytes(const AttentionShape& shape) {
  const int64_t rows = round_up(shape.query_tokens + shape.key_tokens, kPanel);
  const int64_t count = packed_elements(rows, shape.head_dim, shape.backward) * shape.kv_heads;
  return static_cast<size_t>(count) * sizeof(uint16_t);
}
