// Gradients of an adapter: out [rank, cols] += left^T [rank, k] x right [k, cols], for a rank of a
// few and plain values on the right. Packing the right operand for so few rows would be a good part
// of the work: it is read once, where it stands (thin_vectors.inl, thin_amx.inl).

constexpr int64_t kMostThin = 32;  // rank at most: one panel

LOWRANK_INLINE bool is_thin(const Source& right, int64_t rank, int64_t cols) {
#ifdef LOWRANK_BF16_PRODUCTS
  const bool taken = right.element == Element::kBF16;
#else
  const bool taken = right.element == Element::kF32 || right.element == Element::kBF16;
#endif
  return taken && rank <= kMostThin && cols % 16 == 0 && !right.rows && is_unchanged(right);
}

// Adds sums, rows `stride` apart, to columns [col, col + cols) of the output, cols a multiple
// of 16. Up to kLanes - 1 rows more are read.
inline void add_thin(const Epilogue& e, const float* sums, int64_t stride, int64_t rows,
                     int64_t col, int64_t cols) {
  float* out = static_cast<float*>(e.out);
  if (e.col_stride == 1) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < cols; i += kLanes) {
        float* to = out + r * e.row_stride + col + i;
        store(to, load(to) + load(sums + r * stride + i));
      }
    return;
  }
  for (int64_t i = 0; i < cols; i += 4)
    for (int64_t r = 0; r < rows; r += kLanes) {
      F32 columns[4];
      load_columns(sums + r * stride + i, stride, columns);
      const int64_t count = smaller(kLanes, rows - r);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        float* to = out + (col + i + j) * e.col_stride + r;
        store_n(to, load_n(to, count) + columns[j], count);
      }
    }
}
