// Embedding lookup, and the scatter-add of its gradient (cpu/reference/embedding.h).
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

template <typename W, typename X>
void embedding_forward_rows(const EmbeddingForward& op, int64_t begin, int64_t end) {
  const int64_t cols = op.y.cols;
  for (int64_t t = begin; t < end; ++t) {
    const W* from = static_cast<const W*>(op.weight.data) + op.ids[t] * cols;
    X* y = row_of<X>(op.y, t);
    for_each_vector(cols, [&](int64_t i, int64_t n) { store_n(y + i, load_n(from + i, n), n); });
  }
}

template <typename W>
void embedding_forward_from(CpuDevice& device, const EmbeddingForward& op) {
  parallel_rows(device, op.y.rows, op.y.cols, [&](int64_t begin, int64_t end) {
    if (op.y.dtype == DType::kBF16)
      embedding_forward_rows<W, BF16>(op, begin, end);
    else
      embedding_forward_rows<W, float>(op, begin, end);
  });
}

void embedding_forward(CpuDevice& device, const EmbeddingForward& op) {
  switch (op.weight.storage) {
    case Storage::kF32:
      return embedding_forward_from<float>(device, op);
    case Storage::kBF16:
      return embedding_forward_from<BF16>(device, op);
    case Storage::kF16:
      return embedding_forward_from<F16>(device, op);
    case Storage::kNF4:
    case Storage::kInt8:
      // Embeddings are hardly ever quantized.
      return device.reference.embedding_forward(device, op);
  }
}

template <typename X>
void embedding_backward_columns(const EmbeddingBackward& op, int64_t begin, int64_t end) {
  for (int64_t t = 0; t < op.d_y.rows; ++t) {
    if (op.ids[t] == op.padding_id) continue;
    const X* d_y = row_of<X>(op.d_y, t) + begin;
    float* target = op.d_weight + op.ids[t] * op.d_y.cols + begin;
    for_each_vector(end - begin, [&](int64_t i, int64_t n) {
      store_n(target + i, load_n(target + i, n) + load_n(d_y + i, n), n);
    });
  }
}

// Each task owns some columns of d_weight and walks all rows: no atomics, and rows add in order.
void embedding_backward(CpuDevice& device, const EmbeddingBackward& op) {
  parallel_columns(device, op.d_y.cols, [&](int64_t begin, int64_t end) {
    if (op.d_y.dtype == DType::kBF16)
      embedding_backward_columns<BF16>(op, begin, end);
    else
      embedding_backward_columns<float>(op, begin, end);
  });
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
