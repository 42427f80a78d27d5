// One blocked product: out = epilogue(sum over terms of left x right). A term with rows [row_begin,
// row_end) adds to those output rows only. Left operands are packed by the caller (they are used by
// many column strips, and often by several products); right operands, the weights, are decoded and
// packed strip by strip, so that a weight is read once per P::kRowBlock rows.

constexpr int64_t kColBlock = kStripCols;  // columns of one task at most
constexpr int64_t kLongRun = 4096;         // the same where the right operand isn't packed
constexpr int64_t kLeastRows = 96;         // rows of one task when there are few tasks

template <typename P>
struct PackedLeft {
  const typename P::Packed* data = nullptr;  // panels of P::kRows rows over the whole depth
  int64_t first_panel = 0;                   // the panel that stands first in `data`
  int64_t depth = 0;
  int64_t row_stride = 0;  // of an operand that is read where it stands; 0: packed
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

// Packs rows [row_begin, row_end) of `left` [*, depth], unless they can be read where they stand;
// the first panel begins at a multiple of P::kRows, so rows before row_begin may be packed too.
template <typename P>
PackedLeft<P> pack_left(CpuDevice& device, const Operand& left, int64_t row_begin, int64_t row_end,
                        int64_t depth, void* to) {
  using Packed = typename P::Packed;
  PackedLeft<P> packed;
  packed.depth = depth;
  if (P::reads_in_place(left, row_end)) {
    packed.data = static_cast<const Packed*>(left.source.data);
    packed.row_stride = left.source.stride;
    return packed;
  }
  packed.data = static_cast<const Packed*>(to);
  packed.first_panel = row_begin / P::kRows;
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

// Columns of a right operand over some depth: packed panels, or rows of a plain f32 operand.
template <typename P>
struct RightBlock {
  const typename P::Packed* data = nullptr;
  int64_t row_stride = 0;  // of an operand that is read where it stands; 0: packed
};

// Adds one term's share of depth [k0, k0 + depth), inside one P::kDepthBlock, to the task's sums.
template <typename P>
void multiply_block(const Term<P>& term, const RightBlock<P>& right, int64_t k0, int64_t depth,
                    int64_t first_row, int64_t rows, int64_t cols, float* sums, int64_t sums_stride,
                    bool begin) {
  const int64_t padded = padded_depth<P>(depth);
  const int64_t panel_size = padded_depth<P>(term.left.depth) * P::kRows;
  const int64_t in_place = term.left.row_stride;
  const int64_t block = k0 / P::kDepthBlock * P::kDepthBlock;
  const int64_t left_stride =
      in_place ? in_place : padded_depth<P>(smaller(P::kDepthBlock, term.left.depth - block));
  for (int64_t c = 0; c < cols; c += P::kCols) {
    const typename P::Packed* right_panel = right.data + (right.row_stride ? c : c * padded);
    for (int64_t r = 0; r < rows; r += P::kRows) {
      const int64_t row = first_row + r;
      if (row + P::kRows <= term.row_begin || row >= term.row_end) continue;
      const int64_t panel = row / P::kRows - term.left.first_panel;
      const int64_t at = in_place ? panel * P::kRows * in_place + k0
                                  : panel * panel_size + block * P::kRows + k0 - block;
      P::multiply({term.left.data + at, left_stride},
                  {right_panel, right.row_stride ? right.row_stride : P::kCols}, padded, rows - r,
                  cols - c, sums + r * sums_stride + c, sums_stride, begin);
    }
  }
}

// How a product is cut into tasks: strips of columns x blocks of rows.
struct Cut {
  int64_t strips = 1, strip_cols = 0, blocks = 1, block_rows = 0;
};

// The cut that is done first. Every task packs its strip, and the last tasks to run leave threads
// idle. An element's sum doesn't depend on the cut, which may thus follow from the threads.
template <typename P>
Cut cut_product(int64_t rows, int64_t cols, int64_t col_unit, int64_t most_cols, int64_t threads) {
  constexpr int64_t kMostRows = P::kRowBlock / P::kRows * P::kRows;
  const int64_t least_strips = larger(1, (cols + most_cols - 1) / most_cols);
  const int64_t least_blocks = larger(1, (rows + kMostRows - 1) / kMostRows);
  const int64_t most_strips = smaller(4 * least_strips, (cols + col_unit - 1) / col_unit);
  const int64_t most_blocks = larger(least_blocks, smaller(4 * least_blocks, rows / kLeastRows));
  Cut best;
  int64_t best_cost = 0;
  for (int64_t blocks = least_blocks; blocks <= most_blocks; ++blocks)
    for (int64_t strips = least_strips; strips <= most_strips; ++strips) {
      Cut cut;
      cut.strip_cols = round_up((cols + strips - 1) / strips, col_unit);
      cut.strips = (cols + cut.strip_cols - 1) / cut.strip_cols;
      cut.block_rows = round_up((rows + blocks - 1) / blocks, P::kRows);
      cut.blocks = (rows + cut.block_rows - 1) / cut.block_rows;
      const int64_t rounds = (cut.blocks * cut.strips + threads - 1) / threads;
      // In halves of a task: whoever is disturbed ends half a task later.
      const int64_t halves = 2 * rounds + (threads > 1);
      const int64_t cost = halves * cut.strip_cols * (cut.block_rows + P::kPackRows);
      if (best_cost == 0 || cost < best_cost) best = cut, best_cost = cost;
    }
  return best;
}

// Output rows [row_begin, row_end), all `cols` columns. The first term covers every row.
template <typename P>
void multiply(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
              int64_t row_end, int64_t cols, const Epilogue& epilogue) {
  using Packed = typename P::Packed;
  const int64_t origin = row_begin / P::kRows * P::kRows;
  // NF4 is decoded block by block where its rows are runs of columns.
  int64_t col_unit = P::kCols;
  for (int64_t t = 0; t < term_count; ++t)
    if (terms[t].right.source.element == Element::kNF4) col_unit = larger(col_unit, kNf4Block);
  // Rows that are read where they stand arrive fastest as long runs.
  const bool in_place =
      term_count == 1 && P::reads_in_place(terms[0].right, row_end - row_begin, cols);
  const Cut cut = cut_product<P>(row_end - origin, cols, col_unit, in_place ? kLongRun : kColBlock,
                                 device.pool.size());
  const int64_t sums_stride = in_place ? cut.strip_cols : kColBlock;
  device.pool.parallel_for(cut.blocks * cut.strips, [&](int64_t task, int worker) {
    const typename P::Scope scope;
    (void)scope;
    const int64_t first_row = origin + task / cut.strips * cut.block_rows;
    const int64_t rows = smaller(cut.block_rows, row_end - first_row);
    const int64_t first_col = task % cut.strips * cut.strip_cols;
    const int64_t count = smaller(cut.strip_cols, cols - first_col);
    float* sums = static_cast<float*>(device.thread_scratch(worker));
    Packed* right = reinterpret_cast<Packed*>(sums + P::kRowBlock * kColBlock);
    for (int64_t t = 0; t < term_count; ++t) {
      const Term<P>& term = terms[t];
      if (term.row_end <= first_row || term.row_begin >= first_row + rows) continue;
      const int64_t step = in_place ? P::kShortDepth : P::kDepthBlock;
      for (int64_t k0 = 0; k0 < term.left.depth; k0 += step) {
        const int64_t depth = smaller(step, term.left.depth - k0);
        RightBlock<P> block{right};
        if (in_place) {
          const Source& source = term.right.source;
          block.row_stride = source.stride;
          block.data = static_cast<const Packed*>(source.data) + k0 * block.row_stride + first_col;
        } else {
          P::pack_right(term.right, first_col, count, k0, depth, right);
        }
        multiply_block(term, block, k0, depth, first_row, rows, count, sums, sums_stride,
                       t == 0 && k0 == 0);
      }
    }
    for (int64_t row = larger(row_begin, first_row); row < first_row + rows; ++row)
      finish(epilogue, row, first_col, count, sums + (row - first_row) * sums_stride);
  });
}

template <typename P>
constexpr bool product_fits_scratch() {
  return kColBlock * (P::kRowBlock * 4 +
                      P::kDepthBlock * static_cast<int64_t>(sizeof(typename P::Packed))) <=
         static_cast<int64_t>(kThreadScratchBytes);
}
static_assert(product_fits_scratch<F32Policy>(), "raise kThreadScratchBytes");
#ifdef LOWRANK_AMX
static_assert(product_fits_scratch<AmxPolicy>(), "raise kThreadScratchBytes");
#endif
static_assert(2 * F32Policy::kRows * kLongRun <= kColBlock * F32Policy::kRowBlock,
              "sums of a long run fit where a block's do");
