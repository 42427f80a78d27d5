// Flash-attention backward (Dao, arXiv 2307.08691) with five products per tile. One task is heads
// that share a kv head, one after the other, and a part of a document's queries: it alone writes
// their d_q and its share of d_k and d_v, which a second pass sums over the parts in order.

// A part's queries, and the keys that they see (the first is a tile's).
struct QueryPart {
  int64_t begin, end, key_begin, key_end;
};

// The first query of a part, so that all parts see about as many keys.
inline int64_t first_of_part(const Document& document, int64_t part, int64_t parts) {
  if (part == 0) return 0;
  if (part == parts) return document.queries;
  const double share = static_cast<double>(part) / static_cast<double>(parts);
  const double n = static_cast<double>(document.queries);
  const double before = static_cast<double>(larger(0, document.keys - document.queries));
  // Query x sees before + x keys, or the window's: the integral to x is `share` of that to n.
  double x = n * share;
  if (document.window <= 0 || document.window >= document.keys)
    x = __builtin_sqrt(before * before + share * n * (n + 2 * before)) - before;
  return smaller(document.queries,
                 (static_cast<int64_t>(x) + kBackwardRows / 2) / kBackwardRows * kBackwardRows);
}

inline QueryPart query_part(const Document& document, int64_t part, int64_t parts) {
  QueryPart queries{first_of_part(document, part, parts), first_of_part(document, part + 1, parts),
                    0, 0};
  if (queries.begin == queries.end) return queries;
  queries.key_begin = document.visible(queries.begin).low / kKeyTile * kKeyTile;
  queries.key_end = document.visible(queries.end - 1).high;
  return queries;
}

// A task's sums of d_k and d_v, from the document's first key on, and the keys that it adds to.
struct KeySums {
  float *d_k = nullptr, *d_v = nullptr;
  int64_t key_begin = 0, key_end = 0;
};

// What a task of the backward pass has to do.
struct BackwardTask {
  const AttentionBackward& op;
  int64_t index;  // of the document
  Document document;
  int64_t kv_head, head_begin, head_end;
  QueryPart queries;
  KeySums sums;
  int64_t stride;  // of their rows

  void clear() const {
    for (int64_t i = sums.key_begin * stride; i < sums.key_end * stride; ++i)
      sums.d_k[i] = sums.d_v[i] = 0;
  }
};

// A part's sums in the workspace.
inline KeySums shared_sums(const AttentionForward& op, const AttentionWorkspace& workspace,
                           const Document& document, int64_t kv_head, int64_t part,
                           const QueryPart& queries) {
  const int64_t row = (part * op.kv_heads + kv_head) * op.k.rows + document.k_begin;
  const int64_t at = row * workspace.partial_stride;
  return {workspace.d_k + at, workspace.d_v + at, queries.key_begin, queries.key_end};
}

struct BackwardScratch {
  float* q;             // [kBackwardRows][stride], times scale
  float* d_out;         // [kBackwardRows][stride]
  float* d_q;           // [kBackwardRows][stride]
  float* q_transposed;  // [tile_rows][kWidth], times scale
  float* d_out_transposed;
  float* k;  // [kKeyTile][stride], where keys are packed
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
inline void backward_tile(const BackwardScratch& s, const HeadTile& k, const HeadTile& v,
                          int64_t lanes, int64_t head_dim, float* d_k, float* d_v,
                          int64_t d_stride) {
  const int64_t stride = tile_stride(head_dim);
  const int64_t width = (head_dim + kLanes - 1) / kLanes * kLanes;
  const int64_t padded = (lanes + kLaneStep - 1) / kLaneStep * kLaneStep;
  const Visible seen = visible_of_lanes(s.low, s.high, 0, lanes);
  if (seen.low >= seen.high) return;
  for (int64_t j = seen.low; j < seen.high; j += kStripRows) {
    const int64_t rows = smaller(kStripRows, seen.high - j);
    multiply_strip<false>(rows, {k.data + j * k.stride, k.stride, 1}, s.q_transposed, kWidth,
                          s.p + j * kWidth, kWidth, padded, head_dim);
    multiply_strip<false>(rows, {v.data + j * v.stride, v.stride, 1}, s.d_out_transposed, kWidth,
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
                         k.data + strip.low * k.stride, k.stride, s.d_q + lane * stride, stride,
                         width, strip.high - strip.low);
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
void backward_head(const BackwardTask& task, int64_t head, float* memory) {
  const AttentionBackward& op = task.op;
  const AttentionForward& forward = op.forward;
  const Document& document = task.document;
  const QueryPart& part = task.queries;
  const int64_t dim = forward.head_dim, stride = tile_stride(dim), d_stride = task.stride;
  const int64_t kv_column = task.kv_head * dim;
  const BackwardScratch s = backward_scratch(memory, dim);

  for (int64_t begin = part.begin; begin < part.end; begin += kBackwardRows) {
    const int64_t rows = smaller(kBackwardRows, part.end - begin);
    load_query_block<X>(op, document, begin, rows, head, s);
    const int64_t key_begin = document.visible(begin).low / kKeyTile * kKeyTile;
    const int64_t key_end = document.visible(begin + rows - 1).high;
    for (int64_t tile = key_begin; tile < key_end; tile += kKeyTile) {
      const int64_t keys = smaller(kKeyTile, key_end - tile), row = document.k_begin + tile;
      const HeadTile k = head_tile<X>(forward.k, row, kv_column, keys, dim, s.k);
      const HeadTile v = head_tile<X>(forward.v, row, kv_column, keys, dim, s.v);
      for (int64_t lane = 0; lane < kWidth; ++lane) {
        const Visible seen = document.visible(begin + smaller(lane, rows - 1));
        s.low[lane] = static_cast<float>(smaller(keys, larger(0, seen.low - tile)));
        s.high[lane] = static_cast<float>(smaller(keys, larger(0, seen.high - tile)));
      }
      backward_tile(s, k, v, rows, dim, task.sums.d_k + tile * d_stride,
                    task.sums.d_v + tile * d_stride, d_stride);
    }
    for (int64_t r = 0; r < rows; ++r)
      unpack_row(s.d_q + r * stride, dim, forward.scale,
                 row_of<X>(op.d_q, document.q_begin + begin + r, head * dim));
  }
}

// d_k and d_v of the keys [begin, end) of a document and a kv head: the sum over the parts, in
// order.
template <typename X>
void sum_parts(const AttentionBackward& op, const Document& document, int64_t kv_head,
               const KeySums* parts, int64_t count, int64_t stride, int64_t begin, int64_t end,
               float* memory) {
  const int64_t dim = op.forward.head_dim;
  for (int64_t key = begin; key < end; ++key) {
    for (int which = 0; which < 2; ++which) {
      for (int64_t i = 0; i < stride; i += kLanes) store(memory + i, F32{});
      for (int64_t part = 0; part < count; ++part) {
        if (key < parts[part].key_begin || key >= parts[part].key_end) continue;
        const float* from = (which == 0 ? parts[part].d_k : parts[part].d_v) + key * stride;
        for (int64_t i = 0; i < stride; i += kLanes)
          store(memory + i, load(memory + i) + load(from + i));
      }
      unpack_row(memory, dim, 1.0f,
                 row_of<X>(which == 0 ? op.d_k : op.d_v, document.k_begin + key, kv_head * dim));
    }
  }
}
