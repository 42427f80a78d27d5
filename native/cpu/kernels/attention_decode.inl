// One query row over a long cache: bound by reading k and v, so rows are converted where they are
// read and nothing is packed. One task is the heads that share a kv head.

constexpr int64_t kDecodeKeys = 64;

// A head's part of a row of the cache is far from that of the next, so the prefetcher doesn't see
// them coming: memory is asked for so many rows ahead, over the end of a block too. From afar it
// goes to the second cache, which waits for more at a time than the first.
constexpr int64_t kDecodeRowsFar = 32, kDecodeRowsNear = 4;

template <typename X>
LOWRANK_INLINE void prefetch_row_ahead(const X* at, int64_t stride) {
  const auto* byte = reinterpret_cast<const char*>(at);
  const int64_t row_bytes = stride * static_cast<int64_t>(sizeof(X));
  __builtin_prefetch(byte + kDecodeRowsFar * row_bytes, 0, 2);
  __builtin_prefetch(byte + kDecodeRowsNear * row_bytes);
}

// One level of the tree below: each run of 2 * kRun lanes of `a`, then of `b`, folded to kRun
// lanes.
template <int kRun, int... kLane>
LOWRANK_INLINE F32 fold(F32 a, F32 b, LaneList<kLane...>) {
  return __builtin_shufflevector(a, b, (kLane / kRun * 2 * kRun + kLane % kRun)...) +
         __builtin_shufflevector(a, b, (kLane / kRun * 2 * kRun + kLane % kRun + kRun)...);
}

// Lane i of the result is the sum of the lanes of sums[i]: kLanes reductions at the price of two.
LOWRANK_INLINE F32 reduce_all(F32 (&sums)[kLanes]) {
  constexpr AllLanes kAll{};
#if LOWRANK_VECTOR_BYTES == 64
  for (int i = 0; i < 8; ++i) sums[i] = fold<8>(sums[2 * i], sums[2 * i + 1], kAll);
#endif
#if LOWRANK_VECTOR_BYTES >= 32
  for (int i = 0; i < 4; ++i) sums[i] = fold<4>(sums[2 * i], sums[2 * i + 1], kAll);
#endif
  for (int i = 0; i < 2; ++i) sums[i] = fold<2>(sums[2 * i], sums[2 * i + 1], kAll);
  return fold<1>(sums[0], sums[1], kAll);
}

// scores[h][j] = q[h] . k[j] for kHeads heads; beyond `keys` the last key repeats.
template <int kHeads, typename X>
void decode_scores(const float* q, int64_t q_stride, const X* k, int64_t k_stride, int64_t keys,
                   int64_t head_dim, float* scores) {
  constexpr int kKeys = kLanes / kHeads;
  const int64_t whole = head_dim / kLanes * kLanes;
  for (int64_t j = 0; j < keys; j += kKeys) {
    const X* rows[kKeys];
    for (int n = 0; n < kKeys; ++n) rows[n] = k + smaller(j + n, keys - 1) * k_stride;
    F32 sums[kLanes] = {};
    for (int64_t i = 0; i < whole; i += kLanes) {
      F32 query[kHeads];
      for (int h = 0; h < kHeads; ++h) query[h] = load(q + h * q_stride + i);
#pragma GCC unroll 16
      for (int n = 0; n < kKeys; ++n) {
        prefetch_row_ahead(rows[n] + i, k_stride);
        const F32 key = load(rows[n] + i);
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h)
          sums[n * kHeads + h] = fma(query[h], key, sums[n * kHeads + h]);
      }
    }
    const F32 totals = reduce_all(sums);
    for (int n = 0; n < kKeys; ++n) {
      for (int h = 0; h < kHeads; ++h) {
        float score = totals[n * kHeads + h];
        for (int64_t i = whole; i < head_dim; ++i)
          score += q[h * q_stride + i] * to_float(rows[n][i]);
        scores[h * kDecodeKeys + j + n] = score;
      }
    }
  }
}

// Columns [column, column + kVectors * kLanes) of out[h] += sum over j of p[h][j] v[j].
template <int kHeads, int kVectors, typename X>
LOWRANK_INLINE void decode_columns(const float* p, const X* v, int64_t v_stride, int64_t keys,
                                   float* out, int64_t out_stride) {
  F32 sum[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h)
    for (int n = 0; n < kVectors; ++n) sum[h][n] = load(out + h * out_stride + n * kLanes);
  for (int64_t j = 0; j < keys; ++j) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      prefetch_row_ahead(v + j * v_stride + n * kLanes, v_stride);
      const F32 value = load(v + j * v_stride + n * kLanes);
#pragma GCC unroll 4
      for (int h = 0; h < kHeads; ++h)
        sum[h][n] = fma(splat(p[h * kDecodeKeys + j]), value, sum[h][n]);
    }
  }
  for (int h = 0; h < kHeads; ++h)
    for (int n = 0; n < kVectors; ++n) store(out + h * out_stride + n * kLanes, sum[h][n]);
}

// out[h] += sum over j of p[h][j] v[j].
template <int kHeads, typename X>
void decode_values(const float* p, const X* v, int64_t v_stride, int64_t keys, int64_t head_dim,
                   float* out, int64_t out_stride) {
  int64_t i = 0;
  for (; i + kTileVectors * kLanes <= head_dim; i += kTileVectors * kLanes)
    decode_columns<kHeads, kTileVectors>(p, v + i, v_stride, keys, out + i, out_stride);
  for (; i + kLanes <= head_dim; i += kLanes)
    decode_columns<kHeads, 1>(p, v + i, v_stride, keys, out + i, out_stride);
  for (; i < head_dim; ++i)
    for (int64_t j = 0; j < keys; ++j)
      for (int h = 0; h < kHeads; ++h)
        out[h * out_stride + i] += p[h * kDecodeKeys + j] * to_float(v[j * v_stride + i]);
}

template <int kHeads, typename X>
void decode_heads(const AttentionForward& op, const QueryBlock& block, int64_t head_begin,
                  float* memory) {
  const int64_t dim = op.head_dim, stride = tile_stride(dim);
  const int64_t kv_column = head_begin / (op.heads / op.kv_heads) * dim;
  const Document document(op, block.document);
  const int64_t query_row = document.q_begin + block.begin;
  float* q = memory;
  float* out = q + kHeads * stride;
  float* scores = out + kHeads * stride;
  float running[kHeads], sum[kHeads];
  for (int h = 0; h < kHeads; ++h) {
    pack_row(row_of<const X>(op.q, query_row, (head_begin + h) * dim), dim, op.scale,
             q + h * stride);
    for (int64_t i = 0; i < stride; ++i) out[h * stride + i] = 0;
    running[h] = kMasked;
    sum[h] = 0;
  }
  const Visible seen = document.visible(block.begin);
  for (int64_t begin = seen.low; begin < seen.high; begin += kDecodeKeys) {
    const int64_t keys = smaller(kDecodeKeys, seen.high - begin), row = document.k_begin + begin;
    decode_scores<kHeads>(q, stride, row_of<const X>(op.k, row, kv_column), op.k.stride, keys, dim,
                          scores);
    for (int h = 0; h < kHeads; ++h) {
      float* p = scores + h * kDecodeKeys;
      for (int64_t j = keys; j < kDecodeKeys; ++j) p[j] = kMasked;
      F32 largest = splat(running[h]);
      for (int64_t j = 0; j < kDecodeKeys; j += kLanes) largest = max(largest, load(p + j));
      const float new_max = reduce_max(largest);
      F32 total = F32{};
      for (int64_t j = 0; j < kDecodeKeys; j += kLanes) {
        const F32 value = exp(load(p + j) - new_max);
        store(p + j, value);
        total += value;
      }
      const float factor = exp(splat(running[h] - new_max))[0];
      scale_rows(out + h * stride, stride, 1, &factor, stride);
      sum[h] = sum[h] * factor + reduce_add(total);
      running[h] = new_max;
    }
    decode_values<kHeads>(scores, row_of<const X>(op.v, row, kv_column), op.v.stride, keys, dim,
                          out, stride);
  }
  for (int h = 0; h < kHeads; ++h) {
    unpack_row(out + h * stride, dim, 1 / sum[h],
               row_of<X>(op.out, query_row, (head_begin + h) * dim));
    if (op.lse)
      op.lse[(head_begin + h) * op.q.rows + query_row] = running[h] + __builtin_logf(sum[h]);
  }
}

template <typename X>
void decode_block(const AttentionForward& op, const QueryBlock& block, int64_t head_begin,
                  int64_t head_count, float* memory) {
  while (head_count >= 4) {
    decode_heads<4, X>(op, block, head_begin, memory);
    head_begin += 4;
    head_count -= 4;
  }
  if (head_count >= 2) {
    decode_heads<2, X>(op, block, head_begin, memory);
    head_begin += 2;
    head_count -= 2;
  }
  if (head_count > 0) decode_heads<1, X>(op, block, head_begin, memory);
}
