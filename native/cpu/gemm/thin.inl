// Gradients of an adapter: out [rank, cols] += left^T [rank, k] x right [k, cols], for a rank of a
// few and plain bf16 on the right. Packing the right operand for so few rows would be a good part
// of the work: it is read once, where it stands, and its rows become pairs on the way
// (thin_bf16.inl, thin_amx.inl).

constexpr int64_t kMostThin = 32;  // rank at most: one panel
constexpr int64_t kThinCols = 32;  // a line of every row

LOWRANK_INLINE bool is_thin(const Source& right, int64_t rank, int64_t cols) {
  return rank <= kMostThin && cols % 16 == 0 && Products::is_plain(right) && !right.rows;
}

// Adds sums [rows][kThinCols] to columns [col, col + cols) of the output, cols a multiple of 16.
inline void add_thin(const Epilogue& e, const float* sums, int64_t rows, int64_t col,
                     int64_t cols) {
  float* out = static_cast<float*>(e.out);
  if (e.col_stride == 1) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < cols; i += kLanes) {
        float* to = out + r * e.row_stride + col + i;
        store(to, load(to) + load(sums + r * kThinCols + i));
      }
    return;
  }
  for (int64_t i = 0; i < cols; i += 16)
    for (int64_t r = 0; r < rows; r += 16) {
      __m512i block[16];
      alignas(64) uint16_t turned[16 * 32];
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) block[j] = (__m512i)load(sums + (r + j) * kThinCols + i);
      transpose_pairs(block, turned);
      const int64_t count = smaller(16, rows - r);
      for (int64_t j = 0; j < 16; ++j) {
        float* to = out + (col + i + j) * e.col_stride + r;
        store_n(to, load_n(to, count) + load_raw<F32>(turned + 32 * j), count);
      }
    }
}
