// Flash-attention backward over bf16 tiles: the task of attention_backward.inl, five products of
// panels. P and dS are rounded to bf16 once each; what tasks sum stays f32. dS leaves out the
// scale, which multiplies the sums instead.

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
  uint16_t* d_s_deep;    // right panels, [query panel][key]
  float* scores;         // [kPanel keys][kPanel queries]
  float* d_p;            //
  float* sums;           // [kPanel][kPanel]
  float* d_q;            // [query panel][padded dim][kPanel]
  float* d_q_rows;       // [kPanel][padded dim]
  float* lse;            // [kTileRows], times log2(e)
  float* delta;
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

// P and dS / scale of one panel of keys, from `key` on, and one of lanes, from their products.
// `scale` includes log2(e).
template <bool kEdge>
inline void softmax_backward_panel(const TileBackwardScratch& s, int64_t lane, int64_t key,
                                   float scale, uint16_t* p, uint16_t* d_s, uint16_t* d_s_deep) {
  const F32 factor = splat(scale);
  F32 lse[2], delta[2], low[2], high[2];
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    const int64_t at = lane + v * kLanes;
    lse[v] = load(s.lse + at), delta[v] = load(s.delta + at);
    low[v] = load(s.lanes.low + at), high[v] = load(s.lanes.high + at);
  }
  for (int64_t j = 0; j < kPanel; j += 2) {
    F32 probability[2][2], gradient[2][2];  // [key][vector]
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        const int64_t element = (j + i) * kPanel + v * kLanes;
        F32 value = exp2(fma(load(s.scores + element), factor, -lse[v]));
        if constexpr (kEdge) {
          const F32 number = splat(static_cast<float>(key + j + i));
          value = number < high[v] ? value : F32{};
          value = number < low[v] ? F32{} : value;
        }
        probability[i][v] = value;
        gradient[i][v] = value * (load(s.d_p + element) - delta[v]);
      }
      store_pairs(gradient[0][v], gradient[1][v], d_s_deep + v * kTile + j / 2 * 32);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const int64_t at = (j + i) / 16 * kTile + (j + i) % 16 * 32;
      _mm512_store_si512(p + at, round_two(probability[i][0], probability[i][1]));
      _mm512_store_si512(d_s + at, round_two(gradient[i][0], gradient[i][1]));
    }
  }
}

// Adds `factor` times a block of sums to `rows` rows of a gradient.
inline void add_sums(const float* sums, int64_t rows, int64_t columns, float factor, float* to,
                     int64_t stride) {
  const F32 f = splat(factor);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < columns; i += kLanes)
      store(to + r * stride + i, fma(load(sums + r * kPanel + i), f, load(to + r * stride + i)));
}

// One step of keys for one block of queries. `rows` of the keys belong to the document; d_k and d_v
// are their rows, `stride` apart, and accumulate.
inline void tile_backward_keys(const TileBackwardScratch& s, const PackedHead& head, int64_t begin,
                               int64_t end, int64_t rows, int64_t row_panels, int64_t head_dim,
                               float scale, float* d_k, float* d_v, int64_t stride) {
  const int64_t dim = padded_dim(head_dim);
  const int64_t key_panels = (end - begin) / kPanel;
  // The queries that see some of a panel of keys stand together, as do the keys that queries see.
  Visible queries[kKeyPanels];
  for (Visible& none : queries) none = {kRowPanels, 0};
  for (int64_t row = 0; row < row_panels; ++row) {
    const Visible keys = visible_panels(s.lanes.panel(row), begin, end);
    for (int64_t key = keys.low; key < keys.high; key += kPanel) {
      const int64_t panel = (key - begin) / kPanel;
      multiply_panels(head.k + key * dim, s.q + row * kPanel * dim, dim, s.scores, kPanel, true);
      multiply_panels(head.v + key * dim, s.d_out + row * kPanel * dim, dim, s.d_p, kPanel, true);
      const bool edge =
          s.lanes.edge(2 * row, key, key + kPanel) || s.lanes.edge(2 * row + 1, key, key + kPanel);
      const auto softmax = edge ? softmax_backward_panel<true> : softmax_backward_panel<false>;
      softmax(s, row * kPanel, key, scale * kLog2E, s.p + panel * kScorePanel + row * kStep,
              s.d_s + panel * kScorePanel + row * kStep,
              s.d_s_deep + row * kScorePanel + panel * kStep);
      queries[panel].low = smaller(queries[panel].low, row);
      queries[panel].high = row + 1;
    }
    if (keys.low >= keys.high) continue;
    const int64_t first = (keys.low - begin) / kPanel;
    for (int64_t i = 0; i < dim; i += kPanel)
      multiply_panels(head.k_transposed + i * head.rows + keys.low / kPanel * kStep,
                      s.d_s_deep + row * kScorePanel + first * kStep, keys.high - keys.low,
                      s.d_q + (row * dim + i) * kPanel, kPanel, false);
  }
  for (int64_t panel = 0; panel < key_panels; ++panel) {
    const Visible seen = queries[panel];
    const int64_t depth = (seen.high - seen.low) * kPanel;
    if (depth <= 0) continue;
    const int64_t at = panel * kPanel, count = smaller(kPanel, rows - at);
    for (int64_t i = 0; i < dim; i += kPanel) {
      const int64_t columns = smaller(kPanel, stride - i);
      const int64_t right = i * kTileRows + seen.low * kStep;
      const int64_t left = panel * kScorePanel + seen.low * kStep;
      multiply_panels(s.p + left, s.d_out_deep + right, depth, s.sums, kPanel, true);
      add_sums(s.sums, count, columns, 1, d_v + at * stride + i, stride);
      multiply_panels(s.d_s + left, s.q_deep + right, depth, s.sums, kPanel, true);
      add_sums(s.sums, count, columns, scale, d_k + at * stride + i, stride);
    }
  }
}

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
      s.delta[i] = i < rows ? row_delta(d_out, out, i) : 0;
      s.lse[i] = i < rows ? forward.lse[head * forward.q.rows + row + i] * kLog2E : 0;
    }
  }
  for (int64_t panel = 0; panel * kPanel < rows; ++panel) {
    pack_right_deep(q, panel, kScorePanel, s.q_deep);
    pack_right_deep(d_out, panel, kScorePanel, s.d_out_deep);
  }
  for (int64_t i = 0; i < kTileRows * width; i += kLanes) store(s.d_q + i, F32{});
}

// The task of attention_backward.inl's backward_head over tiles.
inline void tile_backward_head(const AttentionBackward& op, const PackedHeads& packed,
                               const BackwardTask& task, float* memory) {
  const AttentionForward& forward = op.forward;
  const Document document(forward, task.document);
  const QueryPart part = query_part(document, task.part, task.parts);
  const int64_t dim = forward.head_dim, width = padded_dim(dim), head = task.head;
  const int64_t stride = task.workspace.partial_stride;
  const PackedHead keys = packed_head(forward, packed, document, task.document,
                                      head / (forward.heads / forward.kv_heads));
  float* d_k = task.rows_of(task.workspace.d_k, forward, document.k_begin);
  float* d_v = task.rows_of(task.workspace.d_v, forward, document.k_begin);
  for (int64_t i = part.key_begin * stride; i < part.key_end * stride; ++i) d_k[i] = d_v[i] = 0;
  TileBackwardScratch s = tile_backward_scratch(memory, dim);

  for (int64_t begin = part.begin; begin < part.end; begin += kTileRows) {
    const int64_t rows = smaller(kTileRows, part.end - begin);
    load_tile_rows(op, document, begin, rows, head, s);
    const int64_t key_begin = document.visible(begin).low / kPanel * kPanel;
    const int64_t key_end = round_up(document.visible(begin + rows - 1).high, kPanel);
    for (int64_t key = key_begin; key < key_end; key += kTileKeys)
      tile_backward_keys(s, keys, key, smaller(key + kTileKeys, key_end), document.keys - key,
                         (rows + kPanel - 1) / kPanel, dim, forward.scale, d_k + key * stride,
                         d_v + key * stride, stride);
    for (int64_t r = 0; r < rows; ++r) {
      if (r % kPanel == 0)
        transpose_rows(s.d_q + r * width, kPanel, width, kPanel, s.d_q_rows, width);
      unpack_row(s.d_q_rows + r % kPanel * width, dim, forward.scale,
                 row_of<BF16>(op.d_q, document.q_begin + begin + r, head * dim));
    }
  }
}
