// The head and cross-entropy of a trained head, over chunks of labelled rows: a chunk's logits
// become its gradient in place and are gone before the next chunk. A frozen head needs no logits at
// all (head_loss_frozen.inl).

constexpr int64_t kHeadChunk = 1024;  // rows of a chunk at most

// Rows of one chunk: as many as the budget holds, a whole number of panels.
template <typename P>
int64_t head_chunk(int64_t labelled, int64_t hidden, int64_t vocabulary) {
  const int64_t packed = static_cast<int64_t>(sizeof(typename P::Packed));
  const int64_t row_bytes =
      vocabulary * 4 + (P::left_stride(vocabulary) + P::left_stride(hidden)) * packed + 8;
  const int64_t unit = 32;
  const int64_t fitting = (kHeadBudget - (int64_t{1} << 20)) / (row_bytes * unit) * unit;
  return smaller(round_up(larger(labelled, 1), unit), smaller(kHeadChunk, larger(fitting, unit)));
}

template <typename P>
size_t head_chunk_workspace(const HeadLossShape& s) {
  const int64_t chunk = head_chunk<P>(s.labelled, s.hidden, s.vocabulary);
  const int64_t bytes =
      64 + round_up(chunk * s.vocabulary * 4, 64) + packed_left_bytes<P>(chunk, s.hidden) +
      larger(packed_left_bytes<P>(chunk, s.vocabulary), packed_left_bytes<P>(s.vocabulary, chunk));
  return static_cast<size_t>(bytes);
}

// logprob and correct of one row, whose logits become -weight * d logprob / d logits.
void cross_entropy_row(const HeadLoss& op, int64_t index, float* logits) {
  const int64_t count = op.weight.rows;
  const float largest = largest_of(logits, count);
  // Sums of at most 4,096 terms in f32, those in f64: the error doesn't grow with the vocabulary.
  constexpr int64_t kPart = 4096;
  double sum = 0;
  for (int64_t first = 0; first < count; first += kPart) {
    const int64_t part = smaller(kPart, count - first);
    const float* from = logits + first;
    const F32 partial = accumulate_vectors(part, [&](int64_t i, int64_t n, F32 total) {
      if (n == kLanes) return total + exp(load(from + i) - largest);
      F32 values = exp(load_part(from + i, n) - largest);
      for (int64_t j = n; j < kLanes; ++j) values[j] = 0;
      return total + values;
    });
    sum += static_cast<double>(reduce_add(partial));
  }
  const int32_t target = op.targets[index];
  const float log_sum = static_cast<float>(__builtin_log(sum));
  op.logprob[index] = logits[target] - largest - log_sum;
  if (op.correct) op.correct[index] = logits[target] >= largest;
  const float weight = op.weights[index];
  const float scale = static_cast<float>(static_cast<double>(weight) / sum);
  for_each_vector(count, [&](int64_t i, int64_t n) {
    store_n(logits + i, exp(load_n(logits + i, n) - largest) * scale, n);
  });
  logits[target] -= weight;
}

void head_bias_gradient(CpuDevice& device, const float* d_logits, int64_t rows, int64_t vocabulary,
                        float* d_bias) {
  constexpr int64_t kChunk = 1024;
  device.pool.parallel_for((vocabulary + kChunk - 1) / kChunk, [&](int64_t task, int) {
    const int64_t first = task * kChunk, end = smaller(vocabulary, first + kChunk);
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t i = first; i < end; ++i) d_bias[i] += d_logits[t * vocabulary + i];
  });
}

// d_x rows of a chunk go to rows[...] of d_x, one by one: they are scattered.
template <typename P>
void head_chunk_gradients(CpuDevice& device, const HeadLoss& op, int64_t first, int64_t rows,
                          const Source& x, const float* d_logits, void* packed) {
  const int64_t hidden = op.x.cols, vocabulary = op.weight.rows;
  if (op.d_x.data) {
    Term<P> term;
    term.left =
        pack_left<P>(device, {source_of(d_logits, vocabulary), false}, 0, rows, vocabulary, packed);
    term.right = {source_of(op.weight), false};
    term.row_end = rows;
    Epilogue epilogue;
    epilogue.out = op.d_x.data;
    epilogue.dtype = op.d_x.dtype;
    epilogue.row_stride = op.d_x.stride;
    epilogue.rows = op.rows + first;
    multiply<P>(device, &term, 1, 0, rows, hidden, epilogue);
  }
  if (op.d_weight) {
    Term<P> term;
    term.left =
        pack_left<P>(device, {source_of(d_logits, vocabulary), true}, 0, vocabulary, rows, packed);
    term.right = {x, false};
    term.row_end = vocabulary;
    Epilogue epilogue;
    epilogue.out = op.d_weight;
    epilogue.row_stride = hidden;
    epilogue.accumulate = true;
    multiply<P>(device, &term, 1, 0, vocabulary, hidden, epilogue);
  }
  if (op.d_bias) head_bias_gradient(device, d_logits, rows, vocabulary, op.d_bias);
}

void zero_rows(CpuDevice& device, const Matrix& matrix) {
  const size_t element = matrix.dtype == DType::kBF16 ? 2 : 4;
  device.pool.parallel_for(matrix.rows, [&](int64_t row, int) {
    __builtin_memset(
        static_cast<char*>(matrix.data) + static_cast<size_t>(row * matrix.stride) * element, 0,
        static_cast<size_t>(matrix.cols) * element);
  });
}

template <typename P>
void head_loss_in_chunks(CpuDevice& device, const HeadLoss& op) {
  const int64_t hidden = op.x.cols, vocabulary = op.weight.rows;
  const int64_t chunk = head_chunk<P>(op.count, hidden, vocabulary);
  Workspace workspace{static_cast<char*>(op.workspace)};
  float* logits = static_cast<float*>(workspace.take(chunk * vocabulary * 4));
  void* packed_x = workspace.take(packed_left_bytes<P>(chunk, hidden));
  for (int64_t first = 0; first < op.count; first += chunk) {
    const int64_t rows = smaller(chunk, op.count - first);
    Source x = source_of(op.x);
    x.rows = op.rows + first;
    Term<P> term;
    term.left = pack_left<P>(device, {x, false}, 0, rows, hidden, packed_x);
    term.right = {source_of(op.weight), true};
    term.row_end = rows;
    Epilogue epilogue;
    epilogue.out = logits;
    epilogue.row_stride = vocabulary;
    epilogue.bias = op.bias;
    multiply<P>(device, &term, 1, 0, rows, vocabulary, epilogue);
    device.pool.parallel_for(rows, [&](int64_t row, int) {
      cross_entropy_row(op, first + row, logits + row * vocabulary);
    });
    head_chunk_gradients<P>(device, op, first, rows, x, logits, workspace.at);
  }
}

template <typename P>
size_t head_loss_workspace(const HeadLossShape& s) {
  return s.weight_gradient ? head_chunk_workspace<P>(s) : frozen_head_workspace<P>(s);
}

template <typename P>
void head_loss(CpuDevice& device, const HeadLoss& op) {
  if (op.d_x.data) zero_rows(device, op.d_x);
  if (op.count == 0) return;
  if (op.d_weight || op.d_bias)
    head_loss_in_chunks<P>(device, op);
  else
    frozen_head_loss<P>(device, op);
}
