// The linear layer with LoRA, backward.

// d_a [rank, in] += dy_b^T dropout(x) and d_b [out, rank] += d_y^T (scale xa), over one segment's
// rows.
template <typename P>
void adapter_gradients(CpuDevice& device, const LinearBackward& op, const LoraSegment& segment,
                       const float* dy_b, int64_t dy_b_stride, Workspace workspace) {
  const int64_t in = op.weight.cols, out = op.weight.rows, rank = segment.rank;
  const int64_t rows = segment.row_end - segment.row_begin;
  void* packed = workspace.take(adapter_left_bytes<P>(rank, rows));
  const auto from_row = [&](Source source, int64_t row) {
    const int64_t size = source.element == Element::kBF16 ? 2 : 4;
    source.data = static_cast<const char*>(source.data) + row * source.stride * size;
    return source;
  };
  Epilogue epilogue;
  epilogue.accumulate = true;
  // out [rank, cols] = left^T x right.
  const auto multiply_rows = [&](const Source& left, const Source& right, int64_t cols) {
    if (is_thin(right, rank, cols)) {
      multiply_thin(device, left, right, rank, rows, cols, epilogue, packed);
      return;
    }
    Term<P> term;
    term.left = pack_left<P>(device, {left, true}, 0, rank, rows, packed);
    term.right = {right, false};
    term.row_end = rank;
    multiply<P>(device, &term, 1, 0, rank, cols, epilogue);
  };
  if (segment.d_a) {
    // dy_b holds the scale. Dropout's elements are numbered from the op's first row.
    Source x = dropped(from_row(source_of(op.x), segment.row_begin), segment, in);
    x.dropout_row = segment.row_begin;
    epilogue.out = segment.d_a;
    epilogue.row_stride = in;
    multiply_rows(source_of(dy_b + segment.row_begin * dy_b_stride, dy_b_stride), x, in);
  }
  if (segment.d_b) {
    // d_b transposed: [rank, out] = (scale xa)^T d_y, written column by column.
    epilogue.out = segment.d_b;
    epilogue.row_stride = 1;
    epilogue.col_stride = rank;
    multiply_rows(scaled(from_row(source_of(op.xa), segment.row_begin), segment.scale),
                  from_row(source_of(op.d_y), segment.row_begin), out);
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
                    const float* dy_b, int64_t rank, Term<P>* terms, Workspace workspace) {
  const int64_t tokens = op.d_y.rows, in = op.weight.cols;
  Epilogue epilogue;
  epilogue.out = op.d_x.data;
  epilogue.dtype = op.d_x.dtype;
  epilogue.row_stride = op.d_x.stride;
  epilogue.accumulate = op.accumulate_d_x;
  int64_t count = 0;
  terms[count++] = {d_y, {source_of(op.weight), false}, 0, tokens};
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
    const PackedLeft<P> left = pack_left<P>(device, d_y, 0, tokens, out, packed_d_y);
    for (int32_t i = 0; i < op.segment_count; ++i) {
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
    if (op.d_x.data) input_gradient<P>(device, op, left, dy_b, rank, terms, workspace);
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
