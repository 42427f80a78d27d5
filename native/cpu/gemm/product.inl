// One blocked product: out = epilogue(sum over terms of left x right). A term with rows [row_begin,
// row_end) adds to those output rows only. Left operands are packed by the caller (they are used by
// many column strips, and often by several products); right operands, the weights, are decoded and
// packed strip by strip, so that a weight is read once per 1,024 rows.

constexpr int64_t kRowBlock = 1024;        // rows of one task at most
constexpr int64_t kColBlock = kStripCols;  // columns of one task
constexpr int64_t kLeastRows = 192;        // rows of one task when there are few tasks
constexpr int64_t kTasksPerThread = 4;     // what evens out the threads' loads

template <typename P>
struct PackedLeft {
  const typename P::Packed* data = nullptr;  // panels of P::kRows rows over the whole depth
  int64_t first_panel = 0;                   // the panel that stands first in `data`
  int64_t depth = 0;
};

template <typename P>
LOWRANK_INLINE int64_t padded_depth(int64_t depth) {
  return round_up(depth, P::kDepthUnit);
}

template <typename P>
LOWRANK_INLINE int64_t packed_left_bytes(int64_t rows, int64_t depth) {
  const int64_t elements = round_up(rows, P::kRows) * padded_depth<P>(depth);
  return round_up(elements * static_cast<int64_t>(sizeof(typename P::Packed)), 64);
}

// Packs rows [row_begin, row_end) of `left` [*, depth]; the first panel begins at a multiple of
// P::kRows, so rows before row_begin may be packed too.
template <typename P>
PackedLeft<P> pack_left(CpuDevice& device, const Operand& left, int64_t row_begin, int64_t row_end,
                        int64_t depth, void* to) {
  using Packed = typename P::Packed;
  PackedLeft<P> packed;
  packed.data = static_cast<const Packed*>(to);
  packed.first_panel = row_begin / P::kRows;
  packed.depth = depth;
  const int64_t panels = (row_end + P::kRows - 1) / P::kRows - packed.first_panel;
  const int64_t panel_size = padded_depth<P>(depth) * P::kRows;
  device.pool.parallel_for(panels, [&](int64_t panel, int) {
    const int64_t first = (packed.first_panel + panel) * P::kRows;
    P::pack_left(left, first, smaller(P::kRows, row_end - first), depth,
                 static_cast<Packed*>(to) + panel * panel_size);
  });
  return packed;
}

template <typename P>
struct Term {
  PackedLeft<P> left;
  Operand right;
  int64_t row_begin = 0, row_end = 0;
};

struct Epilogue {
  void* out = nullptr;
  DType dtype = DType::kF32;
  int64_t row_stride = 0;
  int64_t col_stride = 1;  // other than 1: f32 only (a transposed gradient)
  const float* bias = nullptr;
  const Matrix* residual = nullptr;
  bool accumulate = false;
  const int32_t* rows = nullptr;  // output row i goes to row rows[i]
  const Source* mask = nullptr;   // dropout of the output's elements
};

template <typename T>
LOWRANK_INLINE void finish_row(const Epilogue& e, int64_t row, int64_t col, int64_t count,
                               float* sums) {
  T* out = static_cast<T*>(e.out) + row * e.row_stride + col;
  const T* residual = e.residual
                          ? static_cast<const T*>(e.residual->data) + row * e.residual->stride + col
                          : nullptr;
  for_each_vector(count, [&](int64_t i, int64_t n) {
    F32 value = load_n(sums + i, n);
    if (e.bias) value = value + load_n(e.bias + col + i, n);
    if (residual) value = value + load_n(residual + i, n);
    if (e.accumulate) value = value + load_n(out + i, n);
    store_n(out + i, value, n);
  });
}

void finish(const Epilogue& e, int64_t row, int64_t col, int64_t count, float* sums) {
  if (e.rows) row = e.rows[row];
  if (e.mask) apply_dropout(*e.mask, row, col, count, sums);
  if (e.col_stride != 1) {
    float* out = static_cast<float*>(e.out) + row * e.row_stride + col * e.col_stride;
    for (int64_t i = 0; i < count; ++i)
      out[i * e.col_stride] = e.accumulate ? out[i * e.col_stride] + sums[i] : sums[i];
  } else if (e.dtype == DType::kBF16) {
    finish_row<BF16>(e, row, col, count, sums);
  } else {
    finish_row<float>(e, row, col, count, sums);
  }
}

// Adds one term's share of depth [k0, k0 + depth) to the task's sums.
template <typename P>
void multiply_block(const Term<P>& term, const typename P::Packed* right, int64_t k0, int64_t depth,
                    int64_t first_row, int64_t rows, int64_t cols, float* sums, bool begin) {
  const int64_t padded = padded_depth<P>(depth);
  const int64_t panel_size = padded_depth<P>(term.left.depth) * P::kRows;
  for (int64_t c = 0; c < cols; c += P::kCols) {
    const typename P::Packed* right_panel = right + c * padded;
    for (int64_t r = 0; r < rows; r += P::kRows) {
      const int64_t row = first_row + r;
      if (row + P::kRows <= term.row_begin || row >= term.row_end) continue;
      const int64_t panel = row / P::kRows - term.left.first_panel;
      P::multiply(term.left.data + panel * panel_size + k0 * P::kRows, right_panel, padded,
                  rows - r, cols - c, sums + r * kColBlock + c, kColBlock, begin);
    }
  }
}

// Output rows [row_begin, row_end), all `cols` columns. The first term covers every row.
template <typename P>
void multiply(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
              int64_t row_end, int64_t cols, const Epilogue& epilogue) {
  using Packed = typename P::Packed;
  // Strips of equal width, and enough tasks for every thread. An element's sum doesn't depend on
  // where the strips and blocks lie.
  const int64_t strips = (cols + kColBlock - 1) / kColBlock;
  const int64_t strip_cols = round_up((cols + strips - 1) / strips, kNf4Block);
  const int64_t origin = row_begin / P::kRows * P::kRows;
  constexpr int64_t kMostRows = kRowBlock / P::kRows * P::kRows;
  int64_t blocks = (row_end - origin + kMostRows - 1) / kMostRows;
  while (blocks * strips < kTasksPerThread * device.pool.size() &&
         (row_end - origin) / (blocks + 1) >= kLeastRows)
    ++blocks;
  const int64_t block = round_up((row_end - origin + blocks - 1) / blocks, P::kRows);
  device.pool.parallel_for(blocks * strips, [&](int64_t task, int worker) {
    const typename P::Scope scope;
    (void)scope;
    const int64_t first_row = origin + task / strips * block;
    const int64_t rows = smaller(block, row_end - first_row);
    const int64_t first_col = task % strips * strip_cols;
    const int64_t count = smaller(strip_cols, cols - first_col);
    if (rows <= 0 || count <= 0) return;
    float* sums = static_cast<float*>(device.thread_scratch(worker));
    Packed* right = reinterpret_cast<Packed*>(sums + kRowBlock * kColBlock);
    for (int64_t t = 0; t < term_count; ++t) {
      const Term<P>& term = terms[t];
      if (term.row_end <= first_row || term.row_begin >= first_row + rows) continue;
      for (int64_t k0 = 0; k0 < term.left.depth; k0 += P::kDepthBlock) {
        const int64_t depth = smaller(P::kDepthBlock, term.left.depth - k0);
        P::pack_right(term.right, first_col, count, k0, depth, right);
        multiply_block(term, right, k0, depth, first_row, rows, count, sums, t == 0 && k0 == 0);
      }
    }
    for (int64_t row = larger(row_begin, first_row); row < first_row + rows; ++row)
      finish(epilogue, row, first_col, count, sums + (row - first_row) * kColBlock);
  });
}

static_assert(kRowBlock * kColBlock * 4 + kColBlock * 1024 + kColBlock * 256 <=
                  static_cast<int64_t>(kThreadScratchBytes),
              "raise kThreadScratchBytes");
