// The linear layer with LoRA, forward and backward. The rank-r update is one more term of the base
// product, so it is added while the sums are at hand.

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
                  packed_left_bytes<P>(rank, edge_rows));
  return static_cast<size_t>(bytes);
}

// xa of one segment: rows [row_begin, row_end) of x A^T.
template <typename P>
void project_down(CpuDevice& device, const PackedLeft<P>& x, const LoraSegment& segment, int64_t in,
                  const Matrix& xa) {
  Term<P> term;
  term.left = x;
  term.right = {source_of(segment.a, in), true};
  term.row_begin = segment.row_begin;
  term.row_end = segment.row_end;
  Epilogue epilogue;
  epilogue.out = xa.data;
  epilogue.dtype = xa.dtype;
  epilogue.row_stride = xa.stride;
  multiply<P>(device, &term, 1, segment.row_begin, segment.row_end, segment.rank, epilogue);
}

LOWRANK_INLINE bool any_dropout(const LoraSegment* segments, int32_t count) {
  for (int32_t i = 0; i < count; ++i)
    if (segments[i].dropout > 0) return true;
  return false;
}

LOWRANK_INLINE Epilogue forward_epilogue(const LinearForward& op) {
  Epilogue epilogue;
  epilogue.out = op.y.data;
  epilogue.dtype = op.y.dtype;
  epilogue.row_stride = op.y.stride;
  epilogue.bias = op.bias;
  epilogue.residual = op.residual;
  return epilogue;
}

// Generation: at most one segment over all rows, no dropout.
bool forward_few_rows(CpuDevice& device, const LinearForward& op) {
  const int64_t rows = op.x.rows, in = op.weight.cols;
  const bool whole =
      op.segment_count == 0 || (op.segment_count == 1 && op.segments[0].row_begin == 0 &&
                                op.segments[0].row_end == rows && op.segments[0].dropout <= 0);
  if (rows > kFewRows || !whole) return false;
  Workspace workspace{static_cast<char*>(op.workspace)};
  float* x = static_cast<float*>(workspace.take(rows * in * 4));
  const Source source = source_of(op.x);
  for (int64_t t = 0; t < rows; ++t) read_run(source, t, 0, in, x + t * in);
  const Source weight = source_of(op.weight);
  FewRows given{x, nullptr, rows, in, split_stride(weight, in)};
  if (given.stride > 0) {
    float* split = static_cast<float*>(workspace.take(rows * given.stride * 4));
    const auto reorder = weight.element == Element::kBF16 ? split_pairs : split_codes;
    for (int64_t t = 0; t < rows; ++t) reorder(x + t * in, in, split + t * given.stride);
    given.split = split;
  }
  FewRows update;
  Source up;
  if (op.segment_count == 1) {
    const LoraSegment& segment = op.segments[0];
    const int64_t rank = segment.rank;
    Epilogue to_xa;
    to_xa.out = op.xa.data;
    to_xa.dtype = op.xa.dtype;
    to_xa.row_stride = op.xa.stride;
    multiply_few_rows(device, given, source_of(segment.a, in), rank, {}, {}, to_xa);
    float* scaled_xa = static_cast<float*>(workspace.take(rows * rank * 4));
    const Source xa = scaled(source_of(op.xa), segment.scale);
    for (int64_t t = 0; t < rows; ++t) read_run(xa, t, 0, rank, scaled_xa + t * rank);
    update = {scaled_xa, nullptr, rows, rank, 0};
    up = source_of(segment.b, rank);
  }
  multiply_few_rows(device, given, weight, op.weight.rows, update, up, forward_epilogue(op));
  return true;
}

// The depth that the adapters' terms have together.
template <typename P, typename Op>
int64_t depth_of_segments(const Op& op) {
  int64_t depth = 0;
  for (int32_t i = 0; i < op.segment_count; ++i) depth += padded_depth<P>(op.segments[i].rank);
  return depth;
}

// Whether the product with the weight computes the adapter's x A^T (or d_y B) on its way.
template <typename P, typename Op>
bool projects(const Op& op, int64_t tokens, int64_t depth) {
  return P::kStrips && op.segment_count == 1 && op.segments[0].row_begin == 0 &&
         op.segments[0].row_end == tokens && op.segments[0].rank <= kMostProjected &&
         op.segments[0].dropout <= 0 &&
         strip_cols<P>(padded_depth<P>(depth) + depth_of_segments<P>(op)) > 0;
}

template <typename P>
Term<P> projected_term(const Projection& projection, const Operand& right, int64_t rank,
                       int64_t tokens) {
  Term<P> term;
  term.left.depth = rank;
  term.right = right;
  term.row_end = tokens;
  term.projection = &projection;
  return term;
}

template <typename P>
void linear_forward(CpuDevice& device, const LinearForward& op) {
  const int64_t tokens = op.x.rows, in = op.weight.cols, out = op.weight.rows;
  if (tokens == 0) return;
  if (forward_few_rows(device, op)) return;
  Workspace workspace{static_cast<char*>(op.workspace)};
  auto* terms = static_cast<Term<P>*>(
      workspace.take(static_cast<int64_t>(sizeof(Term<P>)) * (op.segment_count + 1)));
  const int64_t edge_rows = tokens + 2 * P::kRows * op.segment_count;
  void* packed_x = workspace.take(packed_left_bytes<P>(edge_rows, in));
  const Source x = source_of(op.x);

  // With dropout the adapter reads another x: it is packed first, into the same place.
  const bool dropout = any_dropout(op.segments, op.segment_count);
  for (int32_t i = 0; dropout && i < op.segment_count; ++i) {
    const LoraSegment& segment = op.segments[i];
    if (segment.row_begin == segment.row_end) continue;
    const Operand left{dropped(x, segment, in), false};
    project_down<P>(device,
                    pack_left<P>(device, left, segment.row_begin, segment.row_end, in, packed_x),
                    segment, in, op.xa);
  }
  const PackedLeft<P> left = pack_left_later<P>(device, {x, false}, 0, tokens, in,
                                                depth_of_segments<P>(op), out, packed_x);
  int64_t count = 0;
  terms[count++] = {left, {source_of(op.weight), true}, 0, tokens};
  if (projects<P>(op, tokens, in)) {
    const LoraSegment& segment = op.segments[0];
    const Projection projection{{source_of(segment.a, in), true}, segment.scale, op.xa};
    terms[count++] = projected_term<P>(projection, {source_of(segment.b, segment.rank), true},
                                       segment.rank, tokens);
    multiply<P>(device, terms, count, 0, tokens, out, forward_epilogue(op));
    return;
  }
  for (int32_t i = 0; i < op.segment_count; ++i) {
    const LoraSegment& segment = op.segments[i];
    if (segment.row_begin == segment.row_end) continue;
    if (!dropout) project_down<P>(device, left, segment, in, op.xa);
    const int64_t first = segment.row_begin / P::kRows * P::kRows;
    void* to = workspace.take(packed_left_bytes<P>(segment.row_end - first, segment.rank));
    Term<P>& term = terms[count++];
    term = {};
    term.left =
        pack_rows_of_segment<P>(device, scaled(source_of(op.xa), segment.scale), segment, to);
    term.right = {source_of(segment.b, segment.rank), true};
    term.row_begin = segment.row_begin;
    term.row_end = segment.row_end;
  }
  multiply<P>(device, terms, count, 0, tokens, out, forward_epilogue(op));
}

// d_a [rank, in] += dy_b^T dropout(x) and d_b [out, rank] += d_y^T (scale xa), over one segment's
// rows.
template <typename P>
void adapter_gradients(CpuDevice& device, const LinearBackward& op, const LoraSegment& segment,
                       const float* dy_b, int64_t dy_b_stride, Workspace workspace) {
  const int64_t in = op.weight.cols, out = op.weight.rows, rank = segment.rank;
  const int64_t rows = segment.row_end - segment.row_begin;
  void* packed = workspace.take(packed_left_bytes<P>(rank, rows));
  const auto from_row = [&](Source source, int64_t row) {
    const int64_t size = source.element == Element::kBF16 ? 2 : 4;
    source.data = static_cast<const char*>(source.data) + row * source.stride * size;
    return source;
  };
  Epilogue epilogue;
  epilogue.accumulate = true;
  if (segment.d_a) {
    // dy_b holds the scale. Dropout's elements are numbered from the op's first row.
    Source x = dropped(from_row(source_of(op.x), segment.row_begin), segment, in);
    x.dropout_row = segment.row_begin;
    Term<P> term;
    term.left =
        pack_left<P>(device, {source_of(dy_b + segment.row_begin * dy_b_stride, dy_b_stride), true},
                     0, rank, rows, packed);
    term.right = {x, false};
    term.row_end = rank;
    epilogue.out = segment.d_a;
    epilogue.row_stride = in;
    multiply<P>(device, &term, 1, 0, rank, in, epilogue);
  }
  if (segment.d_b) {
    // d_b transposed: [rank, out] = (scale xa)^T d_y, written column by column.
    Term<P> term;
    term.left = pack_left<P>(
        device, {scaled(from_row(source_of(op.xa), segment.row_begin), segment.scale), true}, 0,
        rank, rows, packed);
    term.right = {from_row(source_of(op.d_y), segment.row_begin), false};
    term.row_end = rank;
    epilogue.out = segment.d_b;
    epilogue.row_stride = 1;
    epilogue.col_stride = rank;
    multiply<P>(device, &term, 1, 0, rank, out, epilogue);
  }
}

// d_bias[o] += sum over rows of d_y, in row order.
void bias_gradient(CpuDevice& device, const Matrix& d_y, float* d_bias) {
  constexpr int64_t kChunk = 256;
  const Source source = source_of(d_y);
  device.pool.parallel_for((d_y.cols + kChunk - 1) / kChunk, [&](int64_t task, int) {
    const int64_t first = task * kChunk, count = smaller(kChunk, d_y.cols - first);
    float run[kChunk];
    for (int64_t t = 0; t < d_y.rows; ++t) {
      read_run(source, t, first, count, run);
      for (int64_t i = 0; i < count; ++i) d_bias[first + i] += run[i];
    }
  });
}

template <typename P>
void input_gradient(CpuDevice& device, const LinearBackward& op, const PackedLeft<P>& d_y,
                    bool projected, float* dy_b, int64_t rank, Term<P>* terms,
                    Workspace workspace) {
  const int64_t tokens = op.d_y.rows, in = op.weight.cols;
  Epilogue epilogue;
  epilogue.out = op.d_x.data;
  epilogue.dtype = op.d_x.dtype;
  epilogue.row_stride = op.d_x.stride;
  epilogue.accumulate = op.accumulate_d_x;
  int64_t count = 0;
  terms[count++] = {d_y, {source_of(op.weight), false}, 0, tokens};
  if (projected) {
    const LoraSegment& segment = op.segments[0];
    // The scale is folded into B: dy_b = d_y (scale B).
    const Projection projection{{scaled(source_of(segment.b, rank), segment.scale), false},
                                1,
                                {dy_b, DType::kF32, tokens, rank, rank}};
    terms[count++] = projected_term<P>(projection, {source_of(segment.a, in), false}, rank, tokens);
    multiply<P>(device, terms, count, 0, tokens, in, epilogue);
    return;
  }
  const bool dropout = any_dropout(op.segments, op.segment_count);
  for (int32_t i = 0; i < op.segment_count; ++i) {
    const LoraSegment& segment = op.segments[i];
    if (segment.row_begin == segment.row_end) continue;
    const int64_t first = segment.row_begin / P::kRows * P::kRows;
    void* to = workspace.take(packed_left_bytes<P>(segment.row_end - first, segment.rank));
    Term<P>& term = terms[count++];
    term = {};
    term.left = pack_rows_of_segment<P>(device, source_of(dy_b, rank), segment, to);
    term.right = {source_of(segment.a, in), false};
    term.row_begin = segment.row_begin;
    term.row_end = segment.row_end;
  }
  if (!dropout) {
    multiply<P>(device, terms, count, 0, tokens, in, epilogue);
    return;
  }
  // The mask is on the adapter's share only, so that share is a product of its own.
  multiply<P>(device, terms, 1, 0, tokens, in, epilogue);
  epilogue.accumulate = true;
  int64_t next = 1;
  for (int32_t i = 0; i < op.segment_count; ++i) {
    const LoraSegment& segment = op.segments[i];
    if (segment.row_begin == segment.row_end) continue;
    const Source mask = dropped(Source{}, segment, in);
    epilogue.mask = mask.dropout ? &mask : nullptr;
    multiply<P>(device, terms + next++, 1, segment.row_begin, segment.row_end, in, epilogue);
  }
}

template <typename P>
void linear_backward(CpuDevice& device, const LinearBackward& op) {
  const int64_t tokens = op.d_y.rows, in = op.weight.cols, out = op.weight.rows;
  if (tokens == 0) return;
  if (op.d_bias) bias_gradient(device, op.d_y, op.d_bias);
  Workspace workspace{static_cast<char*>(op.workspace)};
  auto* terms = static_cast<Term<P>*>(
      workspace.take(static_cast<int64_t>(sizeof(Term<P>)) * (op.segment_count + 1)));
  const int64_t edge_rows = tokens + 2 * P::kRows * op.segment_count;
  const int64_t rank = max_rank(op.segments, op.segment_count);
  float* dy_b = static_cast<float*>(workspace.take(tokens * rank * 4));
  const Operand d_y{source_of(op.d_y), false};
  void* packed_d_y = workspace.take(
      larger(packed_left_bytes<P>(edge_rows, out), packed_left_bytes<P>(out, tokens)));
  if (op.d_x.data || op.segment_count > 0) {
    const PackedLeft<P> left =
        pack_left_later<P>(device, d_y, 0, tokens, out, depth_of_segments<P>(op), in, packed_d_y);
    const bool projected = op.d_x.data && projects<P>(op, tokens, out);
    for (int32_t i = 0; !projected && i < op.segment_count; ++i) {
      const LoraSegment& segment = op.segments[i];
      if (segment.row_begin == segment.row_end) continue;
      Term<P> term;
      term.left = left;
      // The scale is folded into B: dy_b = d_y (scale B).
      term.right = {scaled(source_of(segment.b, segment.rank), segment.scale), false};
      term.row_begin = segment.row_begin;
      term.row_end = segment.row_end;
      Epilogue epilogue;
      epilogue.out = dy_b;
      epilogue.row_stride = rank;
      multiply<P>(device, &term, 1, segment.row_begin, segment.row_end, segment.rank, epilogue);
    }
    if (op.d_x.data) input_gradient<P>(device, op, left, projected, dy_b, rank, terms, workspace);
  }
  for (int32_t i = 0; i < op.segment_count; ++i)
    if (op.segments[i].row_begin < op.segments[i].row_end)
      adapter_gradients<P>(device, op, op.segments[i], dy_b, rank, workspace);
  if (op.d_weight) {
    Term<P> term;
    term.left = pack_left<P>(device, {d_y.source, true}, 0, out, tokens, packed_d_y);
    term.right = {source_of(op.x), false};
    term.row_end = out;
    Epilogue epilogue;
    epilogue.out = op.d_weight;
    epilogue.row_stride = in;
    epilogue.accumulate = true;
    multiply<P>(device, &term, 1, 0, out, in, epilogue);
  }
}
