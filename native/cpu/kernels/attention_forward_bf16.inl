// Flash-attention forward over bf16 tiles: the same task as attention_forward.inl, with the scores
// K Q^T, [key][lane], and the transposed output V^T P. Only P is rounded, to bf16; the sum of the
// softmax takes it unrounded.

constexpr int64_t kTileKeys = 128;  // keys of a step: 4 panels, so that V^T P sums over 4 tiles

// What lanes see, as keys of their document: lane i sees [low, high). Vectors of lanes have the
// extremes of their lanes, so that whole panels are skipped and most masks left out.
struct LaneRanges {
  float* low;
  float* high;
  struct Extremes {
    int64_t lowest, last_low, first_high, highest;
  };
  Extremes vectors[kMaxLanes / kLanes];

  // Lanes [lane, lane + kLanes) see what `count` queries from `query` on see; the others nothing.
  void set(int64_t lane, const Document& document, int64_t query, int64_t count) {
    Extremes all{INT32_MAX, 0, 0, 0};
    for (int64_t i = 0; i < kLanes; ++i) {
      const Visible seen = i < count ? document.visible(query + i) : Visible{0, 0};
      low[lane + i] = static_cast<float>(seen.low);
      high[lane + i] = static_cast<float>(seen.high);
      if (i >= count) continue;
      if (i == 0) all.lowest = seen.low;
      all.last_low = seen.low;
      all.highest = seen.high;
    }
    if (count >= kLanes) all.first_high = static_cast<int64_t>(high[lane]);
    vectors[lane / kLanes] = all;
  }
  // The keys that any lane of a panel sees.
  Visible panel(int64_t index) const {
    const Extremes &a = vectors[2 * index], &b = vectors[2 * index + 1];
    return {smaller(a.lowest, b.lowest), larger(a.highest, b.highest)};
  }
  // Whether some lane of a vector doesn't see all the keys [begin, end).
  bool edge(int64_t vector, int64_t begin, int64_t end) const {
    return vectors[vector].last_low > begin || vectors[vector].first_high < end;
  }
};

// Whole panels of keys around what a panel of lanes sees of [begin, end); empty where low >= high.
inline Visible visible_panels(const Visible& seen, int64_t begin, int64_t end) {
  return {larger(begin, seen.low / kPanel * kPanel), smaller(end, round_up(seen.high, kPanel))};
}

struct TileForwardScratch {
  uint16_t* q;      // right panels, [lanes / kPanel][dim]
  uint16_t* p;      // right panel, [kTileKeys]
  float* scores;    // [kTileKeys][kPanel]
  float* out;       // [lanes / kPanel][padded dim][kPanel]
  float* out_rows;  // [kPanel][padded dim]
  float* max;       // [kMaxLanes], of the scores times log2(e)
  float* sum;       // [kMaxLanes]
  LaneRanges lanes;
};

inline TileForwardScratch tile_forward_scratch(float* memory, int64_t head_dim) {
  const int64_t dim = padded_dim(head_dim);
  TileForwardScratch s;
  const auto take = [&](int64_t count) {
    float* part = memory;
    memory += count;
    return part;
  };
  s.q = reinterpret_cast<uint16_t*>(take(kMaxLanes * dim / 2));
  s.p = reinterpret_cast<uint16_t*>(take(kTileKeys * kPanel / 2));
  s.scores = take(kTileKeys * kPanel);
  s.out = take(kMaxLanes * dim);
  s.out_rows = take(kPanel * dim);
  s.max = take(kMaxLanes);
  s.sum = take(kMaxLanes);
  s.lanes.low = take(kMaxLanes);
  s.lanes.high = take(kMaxLanes);
  return s;
}

constexpr float kLn2 = 0x1.62e43p-1f;

// Scores of `keys` become P for one panel of lanes; `change` becomes the factors of what was summed
// before, by vectors. `scale` includes log2(e).
template <bool kEdge>
LOWRANK_INLINE void softmax_panel(const TileForwardScratch& s, int64_t lane, Visible keys,
                                  float scale, F32* change) {
  const int64_t begin = keys.low, end = keys.high;
  const F32 factor = splat(scale), masked = splat(kMasked);
  F32 first[2], last[2], largest[2], sum[2] = {F32{}, F32{}};
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    first[v] = load(s.lanes.low + lane + v * kLanes);
    last[v] = load(s.lanes.high + lane + v * kLanes);
    largest[v] = load(s.max + lane + v * kLanes);
  }
  const auto seen = [&](F32 value, int64_t key, int v, F32 otherwise) {
    if constexpr (!kEdge) return value;
    const F32 number = splat(static_cast<float>(key));
    const F32 low = number < last[v] ? value : otherwise;
    return number < first[v] ? otherwise : low;
  };
  const float* scores = s.scores;
  for (int64_t j = begin; j < end; ++j, scores += kPanel)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v)
      largest[v] = max(largest[v], seen(load(scores + v * kLanes) * factor, j, v, masked));
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    change[v] = exp2(load(s.max + lane + v * kLanes) - largest[v]);
    store(s.max + lane + v * kLanes, largest[v]);
  }
  scores = s.scores;
  for (int64_t j = begin; j < end; j += 2, scores += 2 * kPanel) {
    uint16_t* p = s.p + (j - begin) / 32 * kStep + (j - begin) % 32 / 2 * 32;
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      F32 value[2];
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        value[i] = exp2(fma(load(scores + i * kPanel + v * kLanes), factor, -largest[v]));
        value[i] = seen(value[i], j + i, v, F32{});
      }
      sum[v] += value[0] + value[1];
      store_pairs(value[0], value[1], p + v * kTile);
    }
  }
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    float* total = s.sum + lane + v * kLanes;
    store(total, fma(load(total), change[v], sum[v]));
  }
}

// All keys [begin, end) of a step (multiples of kPanel) for one panel of lanes.
inline void tile_forward_panel(const TileForwardScratch& s, const PackedHead& head, int64_t panel,
                               int64_t begin, int64_t end, int64_t head_dim, float scale) {
  const int64_t dim = padded_dim(head_dim);
  const Visible keys = visible_panels(s.lanes.panel(panel), begin, end);
  if (keys.low >= keys.high) return;
  for (int64_t key = keys.low; key < keys.high; key += kPanel)
    multiply_panels(head.k + key * dim, s.q + panel * kPanel * dim, dim,
                    s.scores + (key - keys.low) * kPanel, kPanel, true);
  float* out = s.out + panel * kPanel * dim;
  const int64_t lane = panel * kPanel, vector = 2 * panel;
  const bool edge =
      s.lanes.edge(vector, keys.low, keys.high) || s.lanes.edge(vector + 1, keys.low, keys.high);
  F32 change[2];
  edge ? softmax_panel<true>(s, lane, keys, scale, change)
       : softmax_panel<false>(s, lane, keys, scale, change);
  for (int64_t v = 0; v < 2; ++v) {
    if (reduce_add(change[v]) == kLanes) continue;  // factors are 1 at most
    for (int64_t i = 0; i < dim; ++i) {
      float* row = out + i * kPanel + v * kLanes;
      store(row, load(row) * change[v]);
    }
  }
  for (int64_t i = 0; i < dim; i += kPanel)
    multiply_panels(head.v + i * head.rows + keys.low / kPanel * kStep, s.p, keys.high - keys.low,
                    out + i * kPanel, kPanel, false);
}

// The block of attention_forward.inl's forward_block over tiles.
inline void tile_forward_block(const AttentionForward& op, const PackedHeads& packed,
                               const QueryBlock& block, int64_t head_begin, int64_t head_count,
                               float* memory) {
  const int64_t dim = op.head_dim, width = padded_dim(dim);
  const int64_t kv_head = head_begin / (op.heads / op.kv_heads);
  const Document document(op, block.document);
  const PackedHead keys = packed_head(op, packed, document, block.document, kv_head);
  const int64_t rows = block.rows, lanes_per_head = round_up(rows, kLanes);
  const int64_t lanes = round_up(lanes_per_head * head_count, kPanel);
  TileForwardScratch s = tile_forward_scratch(memory, dim);

  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    const int64_t head = head_begin + lane / lanes_per_head, row = lane % lanes_per_head;
    const int64_t count = head < head_begin + head_count ? smaller(kLanes, rows - row) : 0;
    const int64_t query = document.q_begin + block.begin + row;
    pack_right_half(head_rows(op.q, query, head * dim, count, dim),
                    s.q + lane / kPanel * kPanel * width + lane % kPanel / kLanes * kTile);
    s.lanes.set(lane, document, block.begin + row, count);
    store(s.max + lane, splat(kMasked));
    store(s.sum + lane, F32{});
  }
  for (int64_t i = 0; i < lanes * width; i += kLanes) store(s.out + i, F32{});

  const int64_t key_begin = document.visible(block.begin).low / kPanel * kPanel;
  const int64_t key_end = round_up(document.visible(block.begin + rows - 1).high, kPanel);
  for (int64_t key = key_begin; key < key_end; key += kTileKeys)
    for (int64_t panel = 0; panel * kPanel < lanes; ++panel)
      tile_forward_panel(s, keys, panel, key, smaller(key + kTileKeys, key_end), dim,
                         op.scale * kLog2E);

  for (int64_t lane = 0; lane < lanes_per_head * head_count; ++lane) {
    if (lane % kPanel == 0)
      transpose_rows(s.out + lane * width, kPanel, width, kPanel, s.out_rows, width);
    const int64_t head = head_begin + lane / lanes_per_head, row = lane % lanes_per_head;
    if (row >= rows) continue;
    const int64_t query = document.q_begin + block.begin + row;
    unpack_row(s.out_rows + lane % kPanel * width, dim, 1 / s.sum[lane],
               row_of<BF16>(op.out, query, head * dim));
    if (op.lse) op.lse[head * op.q.rows + query] = s.max[lane] * kLn2 + __builtin_logf(s.sum[lane]);
  }
}
