// What the passes of the linear layer with LoRA share. The rank-r update is one more term of the
// base product, so it is added while the sums are at hand.

// Hands out the op's workspace, 64-byte aligned.
struct Workspace {
  char* at;
  void* take(int64_t bytes) {
    void* block = at;
    at += round_up(bytes, 64);
    return block;
  }
};

LOWRANK_INLINE Source dropped(Source source, const LoraSegment& segment, int64_t cols) {
  if (segment.dropout <= 0) return source;
  source.dropout = true;
  source.dropout_key = segment.dropout_key;
  source.dropout_threshold =
      static_cast<uint32_t>(static_cast<double>(segment.dropout) * 4294967296.0);
  source.keep_scale = 1.0f / (1.0f - segment.dropout);
  source.dropout_cols = cols;
  return source;
}

LOWRANK_INLINE Source scaled(Source source, float scale) {
  source.scale = scale;
  return source;
}

LOWRANK_INLINE int64_t max_rank(const LoraSegment* segments, int32_t count) {
  int64_t rank = 0;
  for (int32_t i = 0; i < count; ++i) rank = larger(rank, segments[i].rank);
  return rank;
}

// Packs one segment's rows [*, rank]; the other rows of its first panel are zero, so that the term
// adds nothing to them.
template <typename P>
PackedLeft<P> pack_rows_of_segment(CpuDevice& device, Source source, const LoraSegment& segment,
                                   void* to) {
  source.zero_before = segment.row_begin;
  return pack_left<P>(device, {source, false}, segment.row_begin, segment.row_end, segment.rank,
                      to);
}

// The left operand of an adapter's gradients, [rank, rows].
template <typename P>
int64_t adapter_left_bytes(int64_t rank, int64_t rows) {
  return larger(packed_left_bytes<P>(rank, rows), thin_left_bytes(rows));
}

template <typename P>
size_t linear_workspace(const LinearShape& s) {
  const int64_t segments = s.segment_count, rank = s.max_rank;
  // Panels at a segment's edges are packed for both neighbours.
  const int64_t edge_rows = s.tokens + 2 * P::kRows * segments;
  int64_t bytes = 64 + round_up(static_cast<int64_t>(sizeof(Term<P>)) * (segments + 1), 64);
  if (!s.backward) {
    bytes += packed_left_bytes<P>(edge_rows, s.in) + packed_left_bytes<P>(edge_rows, rank) +
             64 * segments;
    bytes = larger(bytes, 64 + kFewRows * (s.in + round_up(s.in, kCodeRun) + rank) * 4 + 256);
    return static_cast<size_t>(bytes);
  }
  // d_y is packed by rows for d_x, and by columns for d_weight when that is done.
  bytes += larger(packed_left_bytes<P>(edge_rows, s.out), packed_left_bytes<P>(s.out, s.tokens));
  bytes += round_up(s.tokens * rank * 4, 64);
  bytes += larger(packed_left_bytes<P>(edge_rows, rank) + 64 * segments,
                  adapter_left_bytes<P>(rank, edge_rows));
  return static_cast<size_t>(bytes);
}

LOWRANK_INLINE bool any_dropout(const LoraSegment* segments, int32_t count) {
  for (int32_t i = 0; i < count; ++i)
    if (segments[i].dropout > 0) return true;
  return false;
}
