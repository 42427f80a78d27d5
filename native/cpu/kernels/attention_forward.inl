// Flash-attention forward (Dao et al., arXiv 2205.14135): one task is a block of query rows for the
// heads that share a kv head. Every key tile is packed once for all of them.

constexpr int64_t kMaxLanes = 128;  // query rows of a task, over its heads

struct ForwardScratch {
  float* q;       // [lanes / kWidth][tile_rows][kWidth], times scale
  float* out;     // [lanes][stride]
  float* k;       // [kKeyTile][stride], where keys are packed
  float* v;       // [kKeyTile][stride]
  float* scores;  // [kKeyTile][kWidth]
  float* high;    // [lanes]: first key that the lane doesn't see, relative to the tile
  float* low;     // [lanes]
  float* max;     // [lanes]
  float* sum;     // [lanes]
  float* factor;  // [lanes]
};

inline ForwardScratch forward_scratch(float* memory, int64_t head_dim) {
  const int64_t stride = tile_stride(head_dim);
  ForwardScratch s;
  const auto take = [&](int64_t count) {
    float* part = memory;
    memory += (count + 15) / 16 * 16;
    return part;
  };
  s.q = take(tile_rows(head_dim) * kMaxLanes);
  s.out = take(kMaxLanes * stride);
  s.k = take(kKeyTile * stride);
  s.v = take(kKeyTile * stride);
  s.scores = take(kKeyTile * kWidth);
  s.high = take(kMaxLanes);
  s.low = take(kMaxLanes);
  s.max = take(kMaxLanes);
  s.sum = take(kMaxLanes);
  s.factor = take(kMaxLanes);
  return s;
}

// Turns scores [key][lane] of keys [begin, end) into exp(score - max) and brings the running
// maximum and sum up to date. `edge`: some lane doesn't see some of these keys.
inline void softmax_lanes(float* scores, int64_t begin, int64_t end, bool edge, const float* low,
                          const float* high, float* running_max, float* running_sum,
                          float* factor) {
  const F32 old_max = load(running_max);
  F32 largest = old_max;
  if (edge) {
    const F32 masked = splat(kMasked), first = load(low), last = load(high);
    for (int64_t j = begin; j < end; ++j) {
      const F32 key = splat(static_cast<float>(j));
      const F32 seen = key < last ? load(scores + j * kWidth) : masked;
      const F32 score = key < first ? masked : seen;
      store(scores + j * kWidth, score);
      largest = max(largest, score);
    }
  } else {
    for (int64_t j = begin; j < end; ++j) largest = max(largest, load(scores + j * kWidth));
  }
  const F32 change = softmax_exp(old_max - largest);
  F32 sum = load(running_sum) * change;
  for (int64_t j = begin; j < end; ++j) {
    const F32 score = load(scores + j * kWidth);
    F32 p = softmax_exp(score - largest);
    // A lane that has seen no key yet has its maximum at kMasked too.
    if (edge) p = score > kMasked ? p : F32{};
    store(scores + j * kWidth, p);
    sum += p;
  }
  store(running_max, largest);
  store(running_sum, sum);
  store(factor, change);
}

// The keys of a tile that any of the lanes [begin, end) sees.
inline Visible visible_of_lanes(const float* low, const float* high, int64_t begin, int64_t end) {
  float first = low[begin], last = high[begin];
  for (int64_t lane = begin + 1; lane < end; ++lane) {
    if (low[lane] < first) first = low[lane];
    if (high[lane] > last) last = high[lane];
  }
  return {static_cast<int64_t>(first), static_cast<int64_t>(last)};
}

inline void scale_rows(float* rows, int64_t stride, int64_t count, const float* factor,
                       int64_t width) {
  for (int64_t r = 0; r < count; ++r) {
    if (factor[r] == 1) continue;
    const F32 f = splat(factor[r]);
    for (int64_t i = 0; i < width; i += kLanes)
      store(rows + r * stride + i, load(rows + r * stride + i) * f);
  }
}

// One key tile for one chunk of lanes.
inline void forward_tile(const ForwardScratch& s, const HeadTile& k, const HeadTile& v,
                         int64_t chunk, int64_t lanes, int64_t head_dim) {
  const int64_t stride = tile_stride(head_dim), first = chunk * kWidth;
  const int64_t width = (head_dim + kLanes - 1) / kLanes * kLanes;
  const Visible seen = visible_of_lanes(s.low, s.high, first, first + lanes);
  if (seen.low >= seen.high) return;
  for (int64_t j = seen.low; j < seen.high; j += kStripRows)
    multiply_strip<false>(smaller(kStripRows, seen.high - j), {k.data + j * k.stride, k.stride, 1},
                          s.q + chunk * tile_rows(head_dim) * kWidth, kWidth, s.scores + j * kWidth,
                          kWidth, lanes, head_dim);
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    const int64_t at = first + lane;
    bool edge = false;
    for (int64_t i = at; i < at + kLanes; ++i)
      edge |= s.low[i] > static_cast<float>(seen.low) || s.high[i] < static_cast<float>(seen.high);
    softmax_lanes(s.scores + lane, seen.low, seen.high, edge, s.low + at, s.high + at, s.max + at,
                  s.sum + at, s.factor + at);
  }
  scale_rows(s.out + first * stride, stride, lanes, s.factor + first, width);
  for (int64_t lane = 0; lane < lanes; lane += kStripRows) {
    const int64_t rows = smaller(kStripRows, lanes - lane), at = first + lane;
    const Visible strip = visible_of_lanes(s.low, s.high, at, at + rows);
    if (strip.low >= strip.high) continue;
    multiply_strip<true>(rows, {s.scores + strip.low * kWidth + lane, 1, kWidth},
                         v.data + strip.low * v.stride, v.stride, s.out + at * stride, stride,
                         width, strip.high - strip.low);
  }
}

template <typename X>
void forward_block(const AttentionForward& op, const QueryBlock& block, int64_t head_begin,
                   int64_t head_count, float* memory) {
  const int64_t dim = op.head_dim, stride = tile_stride(dim);
  const int64_t kv_column = head_begin / (op.heads / op.kv_heads) * dim;
  const Document document(op, block.document);
  const int64_t rows = block.rows, lanes_per_head = (rows + kLaneStep - 1) / kLaneStep * kLaneStep;
  const int64_t lanes = lanes_per_head * head_count;
  const ForwardScratch s = forward_scratch(memory, dim);

  for (int64_t lane = 0; lane < lanes; ++lane) {
    const int64_t head = head_begin + lane / lanes_per_head, row = lane % lanes_per_head;
    // Lanes beyond the block repeat its last row; nothing is made of them.
    const int64_t query = document.q_begin + block.begin + smaller(row, rows - 1);
    pack_row(row_of<const X>(op.q, query, head * dim), dim, op.scale, s.out + lane * stride);
    s.max[lane] = kMasked;
    s.sum[lane] = 0;
  }
  for (int64_t lane = 0; lane < lanes; lane += kWidth)
    transpose_rows(s.out + lane * stride, stride, smaller(kWidth, lanes - lane), dim,
                   s.q + lane * tile_rows(dim));
  for (int64_t i = 0; i < lanes * stride; ++i) s.out[i] = 0;

  const int64_t key_begin = document.visible(block.begin).low / kKeyTile * kKeyTile;
  const int64_t key_end = document.visible(block.begin + rows - 1).high;
  for (int64_t tile = key_begin; tile < key_end; tile += kKeyTile) {
    const int64_t keys = smaller(kKeyTile, key_end - tile), row = document.k_begin + tile;
    const HeadTile k = head_tile<X>(op.k, row, kv_column, keys, dim, s.k);
    const HeadTile v = head_tile<X>(op.v, row, kv_column, keys, dim, s.v);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const Visible seen = document.visible(block.begin + smaller(lane % lanes_per_head, rows - 1));
      s.low[lane] = static_cast<float>(smaller(keys, larger(0, seen.low - tile)));
      s.high[lane] = static_cast<float>(smaller(keys, larger(0, seen.high - tile)));
    }
    for (int64_t chunk = 0; chunk * kWidth < lanes; ++chunk)
      forward_tile(s, k, v, chunk, smaller(kWidth, lanes - chunk * kWidth), dim);
  }

  for (int64_t h = 0; h < head_count; ++h) {
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t lane = h * lanes_per_head + r, head = head_begin + h;
      const int64_t row = document.q_begin + block.begin + r;
      unpack_row(s.out + lane * stride, dim, 1 / s.sum[lane], row_of<X>(op.out, row, head * dim));
      if (op.lse) op.lse[head * op.q.rows + row] = s.max[lane] + __builtin_logf(s.sum[lane]);
    }
  }
}
