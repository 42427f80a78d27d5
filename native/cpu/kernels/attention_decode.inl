// One query row over a long cache: bound by reading k and v, so rows are converted where they are
// read and nothing is packed. One task is the heads that share a kv head.

constexpr int kMaxDecodeHeads = 8;
constexpr int64_t kDecodeKeys = 64;

// scores[h][j] = q[h] . k[j] for kHeads heads.
template <int kHeads, typename X>
void decode_scores(const float* q, int64_t q_stride, const X* k, int64_t k_stride, int64_t keys,
                   int64_t head_dim, float* scores) {
  const int64_t whole = head_dim / kLanes * kLanes;
  for (int64_t j = 0; j < keys; ++j) {
    const X* key = k + j * k_stride;
    F32 sum[kHeads];
    for (int h = 0; h < kHeads; ++h) sum[h] = F32{};
    for (int64_t i = 0; i < whole; i += kLanes) {
      const F32 value = load(key + i);
      for (int h = 0; h < kHeads; ++h) sum[h] = fma(load(q + h * q_stride + i), value, sum[h]);
    }
    for (int h = 0; h < kHeads; ++h) {
      float score = reduce_add(sum[h]);
      for (int64_t i = whole; i < head_dim; ++i) score += q[h * q_stride + i] * to_float(key[i]);
      scores[h * kDecodeKeys + j] = score;
    }
  }
}

// out[h] += sum over j of p[h][j] v[j].
template <int kHeads, typename X>
void decode_values(const float* p, const X* v, int64_t v_stride, int64_t keys, int64_t head_dim,
                   float* out, int64_t out_stride) {
  int64_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) {
    F32 sum[kHeads];
    for (int h = 0; h < kHeads; ++h) sum[h] = load(out + h * out_stride + i);
    for (int64_t j = 0; j < keys; ++j) {
      const F32 value = load(v + j * v_stride + i);
      for (int h = 0; h < kHeads; ++h) sum[h] = fma(splat(p[h * kDecodeKeys + j]), value, sum[h]);
    }
    for (int h = 0; h < kHeads; ++h) store(out + h * out_stride + i, sum[h]);
  }
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
