// One query row over a long cache: bound by reading k and v, so rows are converted where they are
// read and nothing is packed. A task is a part of the keys for all heads (attention_plan.h).

constexpr int64_t kDecodeKeys = 64;  // that the running maximum is brought up to date for
// Keys that all heads pass by before the next ones, so that memory is read nearly in order: 8 rows
// of 2 KiB arrive at 45 GB/s, one head's 256 bytes of each row at 29 (Zen 5, two cores). A window
// waits in the first cache while the one before is read: rows of 2 KiB do so four by four.
constexpr int kMostWindowKeys = 8;
constexpr int64_t kMostWindowBytes = 8192;

// Asks for the window behind the one that is read, line by line in memory's order.
struct NextWindow {
  const char* line;
  bool second_cache;

  // Once for each line of a row that is passed by in vectors.
  template <typename X>
  LOWRANK_INLINE void ask_at(int64_t i) {
    if (i * static_cast<int64_t>(sizeof(X)) % 64 != 0) return;
    ask_for(line, second_cache);
    line += 64;
  }
};

template <typename X>
LOWRANK_INLINE NextWindow window_at(const Matrix& matrix, int64_t row, bool second_cache) {
  return {reinterpret_cast<const char*>(row_of<const X>(matrix, row, 0)), second_cache};
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

// What scores are summed from: vectors of f32, q having been made into some.
template <typename X>
struct FloatScores {
  using Query = float;
  static constexpr int kStep = kLanes;
  template <typename T>
  LOWRANK_INLINE static F32 at(const T* from) {
    return load(from);
  }
  LOWRANK_INLINE static F32 add(F32 sum, F32 q, F32 k) { return fma(q, k, sum); }
  static const float* query(const AttentionForward& op, int64_t row, float* memory) {
    const int64_t stride = query_stride(op);
    for (int64_t h = 0; h < op.heads; ++h)
      pack_row(row_of<const X>(op.q, row, h * op.head_dim), op.head_dim, 1, memory + h * stride);
    return memory;
  }
  static int64_t query_stride(const AttentionForward& op) { return tile_stride(op.head_dim); }
};

#ifdef LOWRANK_BF16_UNIT
// Pairs of bf16 as they stand.
struct PairScores {
  using Query = BF16;
  static constexpr int kStep = 2 * kLanes;
  LOWRANK_INLINE static U32 at(const BF16* from) { return load_raw<U32>(from); }
  LOWRANK_INLINE static F32 add(F32 sum, U32 q, U32 k) { return BF16Unit::add(sum, q, k); }
  static const BF16* query(const AttentionForward& op, int64_t row, float*) {
    return row_of<const BF16>(op.q, row, 0);
  }
  static int64_t query_stride(const AttentionForward& op) { return op.head_dim; }
};
#endif

// scores[h][j] = scale q[h] . k[j] for kHeads heads, kDecodeKeys apart.
template <typename Unit, int kHeads, int kWindowKeys, typename X>
void decode_scores(const typename Unit::Query* q, int64_t q_stride, const X* k, int64_t k_stride,
                   int64_t keys, int64_t head_dim, float scale, NextWindow& next, float* scores) {
  constexpr int kKeys = kLanes / kHeads < kWindowKeys ? kLanes / kHeads : kWindowKeys;
  const int64_t whole = head_dim / Unit::kStep * Unit::kStep;
  for (int64_t j = 0; j < keys; j += kKeys) {
    const X* rows[kKeys];
    for (int n = 0; n < kKeys; ++n) rows[n] = k + smaller(j + n, keys - 1) * k_stride;
    F32 sums[kLanes] = {};
    for (int64_t i = 0; i < whole; i += Unit::kStep) {
      decltype(Unit::at(q)) query[kHeads];
      for (int h = 0; h < kHeads; ++h) query[h] = Unit::at(q + h * q_stride + i);
#pragma GCC unroll 16
      for (int n = 0; n < kKeys; ++n) {
        next.ask_at<X>(i);
        const auto key = Unit::at(rows[n] + i);
#pragma GCC unroll 4
        for (int h = 0; h < kHeads; ++h)
          sums[n * kHeads + h] = Unit::add(sums[n * kHeads + h], query[h], key);
      }
    }
    const F32 totals = reduce_all(sums) * scale;
    const int64_t count = smaller(kKeys, keys - j);
    for (int n = 0; n < count; ++n)
      for (int h = 0; h < kHeads; ++h) scores[h * kDecodeKeys + j + n] = totals[n * kHeads + h];
    for (int64_t i = whole; i < head_dim; ++i)
      for (int n = 0; n < count; ++n)
        for (int h = 0; h < kHeads; ++h)
          scores[h * kDecodeKeys + j + n] +=
              to_float(q[h * q_stride + i]) * to_float(rows[n][i]) * scale;
  }
}

// Columns [column, column + kVectors * kLanes) of out[h] += sum over j of p[h][j] v[j].
template <int kHeads, int kVectors, typename X>
LOWRANK_INLINE void decode_columns(const float* p, const X* v, int64_t v_stride, int64_t keys,
                                   NextWindow& next, float* out, int64_t out_stride) {
  F32 sum[kHeads][kVectors];
  for (int h = 0; h < kHeads; ++h)
    for (int n = 0; n < kVectors; ++n) sum[h][n] = load(out + h * out_stride + n * kLanes);
  for (int64_t j = 0; j < keys; ++j) {
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) {
      next.ask_at<X>(n * kLanes);
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
                   NextWindow& next, float* out, int64_t out_stride) {
  int64_t i = 0;
  for (; i + kTileVectors * kLanes <= head_dim; i += kTileVectors * kLanes)
    decode_columns<kHeads, kTileVectors>(p, v + i, v_stride, keys, next, out + i, out_stride);
  for (; i + kLanes <= head_dim; i += kLanes)
    decode_columns<kHeads, 1>(p, v + i, v_stride, keys, next, out + i, out_stride);
  for (; i < head_dim; ++i)
    for (int64_t j = 0; j < keys; ++j)
      for (int h = 0; h < kHeads; ++h)
        out[h * out_stride + i] += p[h * kDecodeKeys + j] * to_float(v[j * v_stride + i]);
}

// Brings a head's running maximum and sums up to date for `keys` scores, which become exp(score -
// maximum).
inline void decode_softmax(float* scores, int64_t keys, float* running, float* sum, float* out,
                           int64_t stride) {
  for (int64_t j = keys; j < kDecodeKeys; ++j) scores[j] = kMasked;
  F32 largest = splat(*running);
  for (int64_t j = 0; j < kDecodeKeys; j += kLanes) largest = max(largest, load(scores + j));
  const float new_max = reduce_max(largest);
  F32 total = F32{};
  for (int64_t j = 0; j < kDecodeKeys; j += kLanes) {
    const F32 value = exp(load(scores + j) - new_max);
    store(scores + j, value);
    total += value;
  }
  const float factor = exp(splat(*running - new_max))[0];
  scale_rows(out, stride, 1, &factor, stride);
  *sum = *sum * factor + reduce_add(total);
  *running = new_max;
}

template <int kCount>
struct HeadCount {
  static constexpr int kHeads = kCount;
};

// Calls body(HeadCount, head, column of k and v) for runs of heads that share a kv head.
template <typename Body>
LOWRANK_INLINE void for_each_heads(const AttentionForward& op, const Body& body) {
  const int64_t group = op.heads / op.kv_heads;
  for (int64_t head = 0; head < op.heads;) {
    const int64_t column = head / group * op.head_dim, left = group - head % group;
    if (left >= 4) {
      body(HeadCount<4>{}, head, column);
      head += 4;
    } else if (left >= 2) {
      body(HeadCount<2>{}, head, column);
      head += 2;
    } else {
      body(HeadCount<1>{}, head, column);
      head += 1;
    }
  }
}

// Floats of a worker's memory: the query and the scores of all heads.
inline int64_t decode_floats(const AttentionForward& op) {
  return op.heads * (tile_stride(op.head_dim) + kDecodeKeys);
}

// The sums of part `index` over its keys.
template <typename X, typename Unit, int kWindowKeys>
void decode_part(const AttentionForward& op, const DecodeWorkspace& all, int64_t index,
                 bool second_cache, float* memory) {
  const KeyPart& part = all.parts[index];
  const Document document(op, part.document);
  const int64_t dim = op.head_dim, stride = all.stride, q_stride = Unit::query_stride(op);
  const typename Unit::Query* q = Unit::query(op, document.q_begin, memory);
  float* scores = memory + op.heads * tile_stride(dim);
  float* out = all.out + index * op.heads * stride;
  float *running = all.max + index * op.heads, *sum = all.sum + index * op.heads;
  for (int64_t h = 0; h < op.heads; ++h) {
    for (int64_t i = 0; i < stride; ++i) out[h * stride + i] = 0;
    running[h] = kMasked;
    sum[h] = 0;
  }
  for (int64_t begin = part.begin; begin < part.end; begin += kDecodeKeys) {
    const int64_t keys = smaller(kDecodeKeys, part.end - begin), row = document.k_begin + begin;
    for (int64_t j = 0; j < keys; j += kWindowKeys) {
      NextWindow next = window_at<X>(op.k, row + j + kWindowKeys, second_cache);
      for_each_heads(op, [&](auto count, int64_t head, int64_t column) {
        decode_scores<Unit, decltype(count)::kHeads, kWindowKeys>(
            q + head * q_stride, q_stride, row_of<const X>(op.k, row + j, column), op.k.stride,
            smaller(kWindowKeys, keys - j), dim, op.scale, next, scores + head * kDecodeKeys + j);
      });
    }
    for (int64_t h = 0; h < op.heads; ++h)
      decode_softmax(scores + h * kDecodeKeys, keys, running + h, sum + h, out + h * stride,
                     stride);
    for (int64_t j = 0; j < keys; j += kWindowKeys) {
      NextWindow next = window_at<X>(op.v, row + j + kWindowKeys, second_cache);
      for_each_heads(op, [&](auto count, int64_t head, int64_t column) {
        decode_values<decltype(count)::kHeads>(
            scores + head * kDecodeKeys + j, row_of<const X>(op.v, row + j, column), op.v.stride,
            smaller(kWindowKeys, keys - j), dim, next, out + head * stride, stride);
      });
    }
  }
}

// One head of a document's output: its parts' sums, added in order.
template <typename X>
void add_parts(const AttentionForward& op, const DecodeWorkspace& all, int64_t first, int64_t end,
               int64_t head) {
  if (first == end) return;
  const int64_t row = op.q_offsets[all.parts[first].document];
  float* out = all.out + (first * op.heads + head) * all.stride;
  float high = kMasked, sum = 0;
  for (int64_t p = first; p < end; ++p) {
    const float part = all.max[p * op.heads + head];
    high = part > high ? part : high;
  }
  for (int64_t p = first; p < end; ++p) {
    const F32 factor = splat(exp(splat(all.max[p * op.heads + head] - high))[0]);
    const float* from = all.out + (p * op.heads + head) * all.stride;
    for (int64_t i = 0; i < all.stride; i += kLanes) {
      const F32 share = load(from + i) * factor;
      store(out + i, p == first ? share : load(out + i) + share);
    }
    sum += all.sum[p * op.heads + head] * factor[0];
  }
  unpack_row(out, op.head_dim, 1 / sum, row_of<X>(op.out, row, head * op.head_dim));
  if (op.lse) op.lse[head * op.q.rows + row] = high + __builtin_logf(sum);
}

template <typename X, typename Unit>
auto decode_part_for(const AttentionForward& op) {
  const int64_t row_bytes = op.k.stride * static_cast<int64_t>(sizeof(X));
  return kMostWindowKeys * row_bytes <= kMostWindowBytes
             ? decode_part<X, Unit, kMostWindowKeys>
             : decode_part<X, Unit, kMostWindowKeys / 2>;
}

template <typename X>
void decode(CpuDevice& device, const AttentionForward& op) {
  const DecodeWorkspace all = decode_workspace(op);
  auto sum_part = decode_part_for<X, FloatScores<X>>(op);
#ifdef LOWRANK_BF16_UNIT
  if constexpr (sizeof(X) == sizeof(BF16))
    if (op.head_dim % PairScores::kStep == 0) sum_part = decode_part_for<X, PairScores>(op);
#endif
  for (int32_t first = 0; first < op.documents; first += kDecodeDocuments) {
    const auto end = static_cast<int32_t>(smaller(first + kDecodeDocuments, op.documents));
    const int64_t parts = plan_key_parts(op, first, end, all);
    device.pool.parallel_for(parts, [&](int64_t part, int worker) {
      sum_part(op, all, part, device.asks_second_cache,
               static_cast<float*>(device.thread_scratch(worker)));
    });
    device.pool.parallel_for((end - first) * op.heads, [&](int64_t task, int) {
      const int32_t* of_document = all.first_part + task / op.heads;
      add_parts<X>(op, all, of_document[0], of_document[1], task % op.heads);
    });
  }
}

inline bool can_decode(const AttentionForward& op) {
  return asks_single_rows(op) && decode_floats(op) * static_cast<int64_t>(sizeof(float)) <=
                                     static_cast<int64_t>(kThreadScratchBytes);
}
