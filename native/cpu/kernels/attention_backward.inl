// Flash-attention backward (Dao, arXiv 2307.08691) with five products per tile. One task is a head
// of a document: it alone writes d_q and its head's share of d_k and d_v, which a second pass sums
// over the heads of a group in order.

struct BackwardScratch {
  float* q;             // [kBackwardRows][stride], times scale
  float* d_out;         // [kBackwardRows][stride]
  float* d_q;           // [kBackwardRows][stride]
  float* q_transposed;  // [tile_rows][kWidth], times scale
  float* d_out_transposed;
  float* k;  // [kKeyTile][stride]
  float* v;
  float* p;  // [kKeyTile][kWidth]
  float* d_s;
  float* lse;  // [kWidth]
  float* delta;
  float* low;
  float* high;
};

inline BackwardScratch backward_scratch(float* memory, int64_t head_dim) {
  const int64_t stride = tile_stride(head_dim);
  BackwardScratch s;
  const auto take = [&](int64_t count) {
    float* part = memory;
    memory += (count + 15) / 16 * 16;
    return part;
  };
  s.q = take(kBackwardRows * stride);
  s.d_out = take(kBackwardRows * stride);
  s.d_q = take(kBackwardRows * stride);
  s.q_transposed = take(tile_rows(head_dim) * kWidth);
  s.d_out_transposed = take(tile_rows(head_dim) * kWidth);
  s.k = take(kKeyTile * stride);
  s.v = take(kKeyTile * stride);
  s.p = take(kKeyTile * kWidth);
  s.d_s = take(kKeyTile * kWidth);
  s.lse = take(kWidth);
  s.delta = take(kWidth);
  s.low = take(kWidth);
  s.high = take(kWidth);
  return s;
}

// p = exp(score - lse), d_s = p (d_p - delta), both zero where the lane doesn't see the key.
inline void softmax_backward_lanes(float* p, float* d_s, int64_t begin, int64_t end, bool edge,
                                   const BackwardScratch& s, int64_t lane) {
  const F32 lse = load(s.lse + lane), delta = load(s.delta + lane);
  const F32 low = load(s.low + lane), high = load(s.high + lane);
  for (int64_t j = begin; j < end; ++j) {
    F32 value = softmax_exp(load(p + j * kWidth) - lse);
    if (edge) {
      const F32 key = splat(static_cast<float>(j));
      value = key < high ? value : F32{};
      value = key < low ? F32{} : value;
    }
    store(p + j * kWidth, value);
    store(d_s + j * kWidth, value * (load(d_s + j * kWidth) - delta));
  }
}

// The queries [begin, end) of `lanes` that see any of the keys [first, last).
inline Visible queries_of_keys(const BackwardScratch& s, int64_t lanes, int64_t first,
                               int64_t last) {
  int64_t begin = 0, end = lanes;
  while (begin < end && s.high[begin] <= static_cast<float>(first)) ++begin;
  while (end > begin && s.low[end - 1] >= static_cast<float>(last)) --end;
  return {begin, end};
}

// One key tile for one query block. d_k and d_v are the tile's rows, [key][head_dim] with
// `d_stride` elements between rows, and accumulate.
inline void backward_tile(const BackwardScratch& s, int64_t lanes, int64_t head_dim, float* d_k,
                          float* d_v, int64_t d_stride) {
  const int64_t stride = tile_stride(head_dim);
  const int64_t width = (head_dim + kLanes - 1) / kLanes * kLanes;
  const int64_t padded = (lanes + kLaneStep - 1) / kLaneStep * kLaneStep;
  const Visible seen = visible_of_lanes(s.low, s.high, 0, lanes);
  if (seen.low >= seen.high) return;
  for (int64_t j = seen.low; j < seen.high; j += kStripRows) {
    const int64_t rows = smaller(kStripRows, seen.high - j);
    multiply_strip<false>(rows, {s.k + j * stride, stride, 1}, s.q_transposed, kWidth,
                          s.p + j * kWidth, kWidth, padded, head_dim);
    multiply_strip<false>(rows, {s.v + j * stride, stride, 1}, s.d_out_transposed, kWidth,
                          s.d_s + j * kWidth, kWidth, padded, head_dim);
  }
  for (int64_t lane = 0; lane < padded; lane += kLanes) {
    bool edge = false;
    for (int64_t i = lane; i < lane + kLanes; ++i)
      edge |= s.low[i] > static_cast<float>(seen.low) || s.high[i] < static_cast<float>(seen.high);
    softmax_backward_lanes(s.p + lane, s.d_s + lane, seen.low, seen.high, edge, s, lane);
  }
  for (int64_t j = seen.low; j < seen.high; j += kStripRows) {
    const int64_t rows = smaller(kStripRows, seen.high - j);
    const Visible queries = queries_of_keys(s, lanes, j, j + rows);
    const int64_t depth = queries.high - queries.low;
    const float* p = s.p + j * kWidth + queries.low;
    const float* d_s = s.d_s + j * kWidth + queries.low;
    multiply_strip<true>(rows, {p, kWidth, 1}, s.d_out + queries.low * stride, stride,
                         d_v + j * d_stride, d_stride, width, depth);
    multiply_strip<true>(rows, {d_s, kWidth, 1}, s.q + queries.low * stride, stride,
                         d_k + j * d_stride, d_stride, width, depth);
  }
  for (int64_t lane = 0; lane < lanes; lane += kStripRows) {
    const int64_t rows = smaller(kStripRows, lanes - lane);
    const Visible strip = visible_of_lanes(s.low, s.high, lane, lane + rows);
    if (strip.low >= strip.high) continue;
    multiply_strip<true>(rows, {s.d_s + strip.low * kWidth + lane, 1, kWidth},
                         s.k + strip.low * stride, stride, s.d_q + lane * stride, stride, width,
                         strip.high - strip.low);
  }
}

template <typename X>
void load_query_block(const AttentionBackward& op, const Document& document, int64_t begin,
                      int64_t rows, int64_t head, const BackwardScratch& s) {
  const AttentionForward& forward = op.forward;
  const int64_t dim = forward.head_dim, stride = tile_stride(dim), column = head * dim;
  for (int64_t lane = 0; lane < kWidth; ++lane) {
    // Lanes beyond the block repeat its last row; nothing is made of them.
    const int64_t row = document.q_begin + begin + smaller(lane, rows - 1);
    float* q = s.q + lane * stride;
    float* d_out = s.d_out + lane * stride;
    float* out = s.d_q + lane * stride;
    pack_row(row_of<const X>(forward.q, row, column), dim, forward.scale, q);
    pack_row(row_of<const X>(op.d_out, row, column), dim, 1.0f, d_out);
    pack_row(row_of<const X>(forward.out, row, column), dim, 1.0f, out);
    F32 delta = F32{};
    for (int64_t i = 0; i < dim; i += kLanes) delta = fma(load(d_out + i), load(out + i), delta);
    s.delta[lane] = reduce_add(delta);
    s.lse[lane] = forward.lse[head * forward.q.rows + row];
    for (int64_t i = 0; i < stride; ++i) out[i] = 0;
  }
  transpose_rows(s.q, stride, kWidth, dim, s.q_transposed);
  transpose_rows(s.d_out, stride, kWidth, dim, s.d_out_transposed);
}

template <typename X>
void backward_head(const AttentionBackward& op, const Document& document, int64_t head,
                   const AttentionWorkspace& parts, float* memory) {
  const AttentionForward& forward = op.forward;
  const int64_t dim = forward.head_dim, stride = tile_stride(dim);
  const int64_t kv_column = head / (forward.heads / forward.kv_heads) * dim;
  const int64_t d_stride = parts.partial_stride;
  const int64_t first = (head * forward.k.rows + document.k_begin) * d_stride;
  float* d_k = parts.d_k + first;
  float* d_v = parts.d_v + first;
  for (int64_t i = 0; i < document.keys * d_stride; ++i) d_k[i] = d_v[i] = 0;
  const BackwardScratch s = backward_scratch(memory, dim);

  for (int64_t begin = 0; begin < document.queries; begin += kBackwardRows) {
    const int64_t rows = smaller(kBackwardRows, document.queries - begin);
    load_query_block<X>(op, document, begin, rows, head, s);
    const int64_t key_begin = document.visible(begin).low / kKeyTile * kKeyTile;
    const int64_t key_end = document.visible(begin + rows - 1).high;
    for (int64_t tile = key_begin; tile < key_end; tile += kKeyTile) {
      const int64_t keys = smaller(kKeyTile, key_end - tile), row = document.k_begin + tile;
      pack_rows(row_of<const X>(forward.k, row, kv_column), forward.k.stride, keys, dim, 1.0f, s.k,
                stride);
      pack_rows(row_of<const X>(forward.v, row, kv_column), forward.v.stride, keys, dim, 1.0f, s.v,
                stride);
      for (int64_t lane = 0; lane < kWidth; ++lane) {
        const Visible seen = document.visible(begin + smaller(lane, rows - 1));
        s.low[lane] = static_cast<float>(smaller(keys, larger(0, seen.low - tile)));
        s.high[lane] = static_cast<float>(smaller(keys, larger(0, seen.high - tile)));
      }
      backward_tile(s, rows, dim, d_k + tile * d_stride, d_v + tile * d_stride, d_stride);
    }
    for (int64_t r = 0; r < rows; ++r)
      unpack_row(s.d_q + r * stride, dim, forward.scale,
                 row_of<X>(op.d_q, document.q_begin + begin + r, head * dim));
  }
}

// Whether key row `row` belongs to a document that has queries: others get no gradient.
inline bool has_queries(const AttentionForward& op, int64_t row) {
  int64_t low = 0, high = op.documents;  // the last document that begins at or before `row`
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (op.k_offsets[middle] <= row ? low : high) = middle;
  }
  return op.documents > 0 && op.k_offsets[low] <= row && row < op.k_offsets[low + 1] &&
         op.q_offsets[low] < op.q_offsets[low + 1];
}

// d_k and d_v of one key row: the sum over each group's heads, in order.
template <typename X>
void sum_groups(const AttentionBackward& op, const AttentionWorkspace& parts, int64_t row,
                float* memory) {
  const AttentionForward& forward = op.forward;
  const bool seen = has_queries(forward, row);
  const int64_t dim = forward.head_dim, group = forward.heads / forward.kv_heads;
  const int64_t stride = parts.partial_stride;
  for (int64_t kv_head = 0; kv_head < forward.kv_heads; ++kv_head) {
    for (int part = 0; part < 2; ++part) {
      const float* from = part == 0 ? parts.d_k : parts.d_v;
      for (int64_t i = 0; i < stride; i += kLanes) {
        F32 sum = F32{};
        for (int64_t head = kv_head * group; seen && head < (kv_head + 1) * group; ++head)
          sum += load(from + (head * forward.k.rows + row) * stride + i);
        store(memory + i, sum);
      }
      unpack_row(memory, dim, 1.0f, row_of<X>(part == 0 ? op.d_k : op.d_v, row, kv_head * dim));
    }
  }
}
