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
  float* max;       // [kMaxLanes]
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

// Scores of `keys` become P for one vector of lanes; returns the factor of what was summed before.
template <bool kEdge>
LOWRANK_INLINE F32 softmax_vector(const TileForwardScratch& s, int64_t lane, Visible keys,
                                  float scale) {
  const int64_t half = lane % kPanel / kLanes, begin = keys.low, end = keys.high;
  const float* scores = s.scores + half * kLanes;
  uint16_t* p = s.p + half * kTile;
  const F32 factor = splat(scale), masked = splat(kMasked);
  const F32 first = load(s.lanes.low + lane), last = load(s.lanes.high + lane);
  const auto score_of = [&](int64_t j) {
    const F32 score = load(scores + (j - begin) * kPanel) * factor;
    if constexpr (!kEdge) return score;
    const F32 key = splat(static_cast<float>(j));
    const F32 seen = key < last ? score : masked;
    return key < first ? masked : seen;
  };
  const F32 old_max = load(s.max + lane);
  F32 even_max = old_max, odd_max = old_max;
  for (int64_t j = begin; j < end; j += 2) {
    even_max = max(even_max, score_of(j));
    odd_max = max(odd_max, score_of(j + 1));
  }
  const F32 largest = max(even_max, odd_max);
  const auto probability = [&](int64_t j) {
    const F32 score = score_of(j);
    const F32 value = exp(score - largest);
    // A lane that has seen no key yet has its maximum at kMasked too.
    return kEdge ? (score > kMasked ? value : F32{}) : value;
  };
  F32 even_sum = F32{}, odd_sum = F32{};
  for (int64_t j = begin; j < end; j += 2) {
    const F32 even = probability(j), odd = probability(j + 1);
    even_sum += even;
    odd_sum += odd;
    const int64_t at = j - begin;
    store_pairs(even, odd, p + at / 32 * kStep + at % 32 / 2 * 32);
  }
  const F32 change = exp(old_max - largest);
  store(s.max + lane, largest);
  store(s.sum + lane, fma(load(s.sum + lane), change, even_sum + odd_sum));
  return change;
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
  for (int64_t v = 0; v < 2; ++v) {
    const int64_t lane = panel * kPanel + v * kLanes;
    const bool edge = s.lanes.edge(lane / kLanes, keys.low, keys.high);
    const F32 change = edge ? softmax_vector<true>(s, lane, keys, scale)
                            : softmax_vector<false>(s, lane, keys, scale);
    if (reduce_add(change) == kLanes) continue;  // factors are 1 at most
    for (int64_t i = 0; i < dim; ++i) {
      float* row = out + i * kPanel + v * kLanes;
      store(row, load(row) * change);
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
      tile_forward_panel(s, keys, panel, key, smaller(key + kTileKeys, key_end), dim, op.scale);

  for (int64_t lane = 0; lane < lanes_per_head * head_count; ++lane) {
    if (lane % kPanel == 0)
      transpose_rows(s.out + lane * width, kPanel, width, kPanel, s.out_rows, width);
    const int64_t head = head_begin + lane / lanes_per_head, row = lane % lanes_per_head;
    if (row >= rows) continue;
    const int64_t query = document.q_begin + block.begin + row;
    unpack_row(s.out_rows + lane % kPanel * width, dim, 1 / s.sum[lane],
               row_of<BF16>(op.out, query, head * dim));
    if (op.lse) op.lse[head * op.q.rows + query] = s.max[lane] + __builtin_logf(s.sum[lane]);
  }
}
