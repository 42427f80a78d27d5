// The linear layer with LoRA, forward.

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
  FewRows given{x, nullptr, rows, in, split_stride(weight, in), device.asks_second_cache};
  if (given.stride > 0) {
    auto* split = static_cast<SplitUnit::X*>(workspace.take(rows * given.stride * 4));
    const auto split_row = weight.element == Element::kBF16
                               ? split_x<SplitUnit::kPairVectors, false>
                               : split_x<SplitUnit::kCodeVectors, true>;
    for (int64_t t = 0; t < rows; ++t) split_row(x + t * in, in, split + t * given.stride);
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
    update = {scaled_xa, nullptr, rows, rank, 0, given.asks_second_cache};
    up = source_of(segment.b, rank);
  }
  multiply_few_rows(device, given, weight, op.weight.rows, update, up, forward_epilogue(op));
  return true;
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
  const PackedLeft<P> left = pack_left<P>(device, {x, false}, 0, tokens, in, packed_x);
  int64_t count = 0;
  terms[count++] = {left, {source_of(op.weight), true}, 0, tokens};
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
