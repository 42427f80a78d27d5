// Flash-attention backward over bf16 panels: the task of attention_backward.inl with the scores
// K Q^T, [key][query], five products of panels. P and dS are rounded to bf16 once each; what tasks
// sum stays f32.

constexpr int64_t kTileKeys = 128;  // keys of a step
constexpr int64_t kTileRows = 128;  // queries of a block: sums over 4 tiles
constexpr int64_t kRowPanels = kTileRows / kPanel, kKeyPanels = kTileKeys / kPanel;
constexpr int64_t kScorePanel = kPanel * kTileRows;  // elements of a packed panel of P or dS
static_assert(kTileRows <= kMaxLanes && kTileRows == kTileKeys);

struct TileBackwardScratch {
  uint16_t* q;           // right panels, [query panel][dim]
  uint16_t* d_out;       //
  uint16_t* q_deep;      // right panels, [dim panel][query]
  uint16_t* d_out_deep;  //
  uint16_t* p;           // left panels, [key panel][query]
  uint16_t* d_s;         //
  uint16_t* d_s_deep;    // right panels, [query panel][key], queries in the order of deep_query()
  float* scores;         // [kPanel keys][kPanel queries]
  float* d_p;            //
  float* sums;           // [kPanel][kPanel]
  float* d_q;            // [query panel][padded dim][kPanel], the queries as in d_s_deep
  float* d_q_rows;       // [kPanel][padded dim]
  float* lse;            // [kTileRows], times log2(e)
  float* delta;          // [kTileRows], times the scale
  LaneRanges lanes;
};

inline TileBackwardScratch tile_backward_scratch(float* memory, int64_t head_dim) {
  const int64_t dim = padded_dim(head_dim);
  TileBackwardScratch s;
  const auto take = [&](int64_t count) {
    float* part = memory;
    memory += count;
    return part;
  };
  const auto take_bf16 = [&](int64_t count) {
    return reinterpret_cast<uint16_t*>(take(count / 2));
  };
  for (uint16_t** part : {&s.q, &s.d_out, &s.q_deep, &s.d_out_deep})
    *part = take_bf16(kTileRows * dim);
  for (uint16_t** part : {&s.p, &s.d_s, &s.d_s_deep}) *part = take_bf16(kTileRows * kTileKeys);
  for (float** part : {&s.scores, &s.d_p, &s.sums}) *part = take(kPanel * kPanel);
  s.d_q = take(kTileRows * dim);
  s.d_q_rows = take(kPanel * dim);
  for (float** part : {&s.lse, &s.delta, &s.lanes.low, &s.lanes.high}) *part = take(kTileRows);
  return s;
}

// Two rows of 32 bf16 stand in d_s_deep as pairs, in the order that interleaving them within 16
// bytes gives. The query of column `column`.
constexpr int64_t deep_query(int64_t column) {
  return column / 16 * 4 + column % 16 / 4 * 8 + column % 4;
}

// P and dS of a panel of queries and one of keys, from `key` on, from their products.
template <bool kMasks>
inline void softmax_backward(const TileBackwardScratch& s, int64_t row, int64_t panel, int64_t key,
                             float scale) {
  const F32 factor = splat(scale * kLog2E), scales = splat(scale);
  const int64_t lane = row * kPanel, left = panel * kScorePanel + row * kStep;
  uint16_t *p = s.p + left, *d_s = s.d_s + left;
  uint16_t* deep = s.d_s_deep + row * kScorePanel + panel * kStep;
  F32 lse[2], delta[2], low[2], high[2];
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    const int64_t at = lane + v * kLanes;
    lse[v] = load(s.lse + at), delta[v] = load(s.delta + at);
    low[v] = load(s.lanes.low + at), high[v] = load(s.lanes.high + at);
  }
  for (int64_t j = 0; j < kPanel; j += 2) {
    __m512i rows[2];  // of dS
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      F32 weight[2], gradient[2];
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const int64_t element = (j + i) * kPanel + v * kLanes;
        __mmask16 seen = 0xffff;
        if constexpr (kMasks) {
          const __m512 number = _mm512_set1_ps(static_cast<float>(key + j + i));
          seen = _mm512_cmp_ps_mask(number, (__m512)high[v], _CMP_LT_OQ) &
                 _mm512_cmp_ps_mask(number, (__m512)low[v], _CMP_NLT_UQ);
        }
        weight[v] = exp2_where(seen, fma(load(s.scores + element), factor, -lse[v]));
        gradient[v] = weight[v] * fma(load(s.d_p + element), scales, -delta[v]);
      }
      const int64_t at = (j + i) / 16 * kTile + (j + i) % 16 * 32;
      _mm512_store_si512(p + at, round_two(weight[0], weight[1]));
      rows[i] = round_two(gradient[0], gradient[1]);
      _mm512_store_si512(d_s + at, rows[i]);
    }
    _mm512_store_si512(deep + j / 2 * 32, _mm512_unpacklo_epi16(rows[0], rows[1]));
    _mm512_store_si512(deep + j / 2 * 32 + kTile, _mm512_unpackhi_epi16(rows[0], rows[1]));
  }
}

// One step of keys for one block of queries. d_k and d_v are the keys' rows and accumulate.
struct TileBackwardStep {
  const TileBackwardScratch& s;
  const PackedHead& head;
  int64_t begin, end;  // keys, whole panels
  int64_t rows;        // of the keys that belong to the document
  int64_t row_panels, dim;
  float scale;
  float *d_k, *d_v;
  int64_t stride;
  // The panels of queries that see some of a panel of keys stand together, as do the keys that
  // queries see.
  Visible queries[kKeyPanels] = {};

  void run() {
    for (Visible& none : queries) none = {kRowPanels, 0};
    for (int64_t row = 0; row < row_panels; ++row) {
      const Visible keys = visible_panels(s.lanes.panel(row), begin, end);
      for (int64_t key = keys.low; key < keys.high; key += kPanel) {
        const int64_t panel = (key - begin) / kPanel, at = row * kPanel * dim;
        multiply_panels(head.k + key * dim, s.q + at, dim, s.scores, kPanel, true);
        multiply_panels(head.v + key * dim, s.d_out + at, dim, s.d_p, kPanel, true);
        const bool masked = s.lanes.edge(row, key, key + kPanel);
        const auto softmax = masked ? softmax_backward<true> : softmax_backward<false>;
        softmax(s, row, panel, key, scale);
        queries[panel].low = smaller(queries[panel].low, row);
        queries[panel].high = row + 1;
      }
      if (keys.low < keys.high) add_d_q(row);
    }
    for (int64_t panel = 0; panel * kPanel < end - begin; ++panel) add_d_k_and_d_v(panel);
  }

  void add_d_q(int64_t row) const {
    const Visible seen = s.lanes.panel(row), keys = visible_panels(seen, begin, end);
    const uint16_t* d_s = s.d_s_deep + row * kScorePanel + (keys.low - begin) / kPanel * kStep;
    for (int64_t i = 0; i < dim; i += kPanel)
      multiply_panels(head.k_transposed + i * head.rows + keys.low / kPanel * kStep, d_s,
                      keys.high - keys.low, s.d_q + (row * dim + i) * kPanel, kPanel,
                      keys.low <= seen.low);
  }

  void add_d_k_and_d_v(int64_t panel) const {
    const Visible seen = queries[panel];
    if (seen.low >= seen.high) return;
    const int64_t left = panel * kScorePanel + seen.low * kStep;
    for (int64_t i = 0; i < dim; i += kPanel) {
      const int64_t right = i * kTileRows + seen.low * kStep;
      add(s.p + left, s.d_out_deep + right, seen, panel, i, d_v);
      add(s.d_s + left, s.q_deep + right, seen, panel, i, d_k);
    }
  }

  // Adds a product to 32 columns of 32 keys, or as many as there are.
  void add(const uint16_t* left, const uint16_t* right, const Visible& seen, int64_t panel,
           int64_t column, float* to) const {
    const int64_t depth = (seen.high - seen.low) * kPanel, at = panel * kPanel;
    const int64_t count = smaller(kPanel, rows - at), columns = smaller(kPanel, stride - column);
    to += at * stride + column;
    if (count == kPanel && columns == kPanel)
      return multiply_panels(left, right, depth, to, stride, false);
    multiply_panels(left, right, depth, s.sums, kPanel, true);
    for (int64_t r = 0; r < count; ++r, to += stride)
      for (int64_t i = 0; i < columns; i += kLanes)
        store(to + i, load(to + i) + load(s.sums + r * kPanel + i));
  }
};

// sum(d_out * out) of one row.
LOWRANK_INLINE float row_delta(const HeadRows& d_out, const HeadRows& out, int64_t row) {
  F32 sum = F32{};
  for (int64_t i = 0; i < d_out.dim; i += 32) {
    const __m512i a = load_32(d_out, row, i), b = load_32(out, row, i);
    const auto high = [](__m512i bits) { return (F32)((U32)bits & 0xffff0000u); };
    const auto low = [](__m512i bits) { return (F32)((U32)bits << 16); };
    sum = fma(high(a), high(b), fma(low(a), low(b), sum));
  }
  return reduce_add(sum);
}

inline void load_tile_rows(const AttentionBackward& op, const Document& document, int64_t begin,
                           int64_t rows, int64_t head, TileBackwardScratch& s) {
  const AttentionForward& forward = op.forward;
  const int64_t dim = forward.head_dim, width = padded_dim(dim), row = document.q_begin + begin;
  const auto from = [&](const Matrix& matrix, int64_t first) {
    return head_rows(matrix, row + first, head * dim, larger(0, rows - first), dim);
  };
  const HeadRows q = from(forward.q, 0), d_out = from(op.d_out, 0), out = from(forward.out, 0);
  for (int64_t lane = 0; lane < round_up(rows, kPanel); lane += kLanes) {
    const int64_t at = lane / kPanel * kPanel * width + lane % kPanel / kLanes * kTile;
    pack_right_half(from(forward.q, lane), s.q + at);
    pack_right_half(from(op.d_out, lane), s.d_out + at);
    s.lanes.set(lane, document, begin + lane, smaller(kLanes, rows - lane));
    for (int64_t i = lane; i < lane + kLanes; ++i) {
      s.delta[i] = i < rows ? row_delta(d_out, out, i) * forward.scale : 0;
      s.lse[i] = i < rows ? forward.lse[head * forward.q.rows + row + i] * kLog2E : 0;
    }
  }
  for (int64_t panel = 0; panel * kPanel < rows; ++panel) {
    pack_right_deep(q, panel, kScorePanel, s.q_deep);
    pack_right_deep(d_out, panel, kScorePanel, s.d_out_deep);
  }
}

// A head of attention_backward.inl's task over tiles.
inline void tile_backward_head(const BackwardTask& task, const PackedHead& keys, int64_t head,
                               float* memory) {
  const AttentionBackward& op = task.op;
  const AttentionForward& forward = op.forward;
  const Document& document = task.document;
  const QueryPart& part = task.queries;
  const int64_t dim = forward.head_dim, width = padded_dim(dim), stride = task.stride;
  TileBackwardScratch s = tile_backward_scratch(memory, dim);

  for (int64_t begin = part.begin; begin < part.end; begin += kTileRows) {
    const int64_t rows = smaller(kTileRows, part.end - begin);
    load_tile_rows(op, document, begin, rows, head, s);
    const int64_t key_begin = document.visible(begin).low / kPanel * kPanel;
    const int64_t key_end = round_up(document.visible(begin + rows - 1).high, kPanel);
    for (int64_t key = key_begin; key < key_end; key += kTileKeys)
      TileBackwardStep{s,
                       keys,
                       key,
                       smaller(key + kTileKeys, key_end),
                       document.keys - key,
                       (rows + kPanel - 1) / kPanel,
                       width,
                       forward.scale,
                       task.sums.d_k + key * stride,
                       task.sums.d_v + key * stride,
                       stride}
          .run();
    for (int64_t panel = 0; panel * kPanel < rows; ++panel) {
      transpose_rows(s.d_q + panel * kPanel * width, kPanel, width, kPanel, s.d_q_rows, width);
      for (int64_t column = 0; column < kPanel; ++column) {
        const int64_t row = panel * kPanel + deep_query(column);
        if (row < rows)
          unpack_row(s.d_q_rows + column * width, dim, 1.0f,
                     row_of<BF16>(op.d_q, document.q_begin + begin + row, head * dim));
      }
    }
  }
}
