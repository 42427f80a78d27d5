// The product blocked for the first cache: a task packs its columns of the right operand block of
// depth by block of depth, each for all its rows, and asks for the next block's operands meanwhile.

// The rows and columns of one task.
struct ProductTask {
  int64_t first_row, rows, first_col, cols;
};

// The operands of a block of depth.
template <typename P>
Upcoming upcoming_block(const Term<P>& term, const ProductTask& at, int64_t k0, int64_t depth) {
  Upcoming upcoming;
  if constexpr (P::kStrips) return upcoming;
  if (term.right.transposed)
    upcoming.add(term.right.source, at.first_col, at.cols, k0, depth);
  else
    upcoming.add(term.right.source, k0, depth, at.first_col, at.cols);
  Piece<P> piece{&term, k0, depth};
  const Panels<P> panels(piece);
  const int64_t first_panel = at.first_row / P::kRows;
  constexpr int64_t kSize = static_cast<int64_t>(sizeof(typename P::Packed));
  const char* left = reinterpret_cast<const char*>(panels.at(first_panel, 0).left);
  if (term.left.row_stride > 0)
    upcoming.add(left, panels.left_stride * kSize, at.rows, depth * kSize);
  else
    upcoming.add(left, panels.left_panel * kSize, (at.rows + P::kRows - 1) / P::kRows,
                 P::kRows * padded_depth<P>(depth) * kSize);
  return upcoming;
}

// Output rows [row_begin, row_end), all `cols` columns. The first term covers every row.
template <typename P>
void multiply_blocks(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
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
  const Cut cut =
      cut_product<P>(row_end - origin, cols, col_unit, P::kRowBlock / P::kRows * P::kRows,
                     in_place ? P::kLongRun : kColBlock, device.pool.size());
  const auto task_at = [&](int64_t task) {
    ProductTask at;
    at.first_row = origin + task / cut.strips * cut.block_rows;
    at.rows = smaller(cut.block_rows, row_end - at.first_row);
    at.first_col = task % cut.strips * cut.strip_cols;
    at.cols = smaller(cut.strip_cols, cols - at.first_col);
    return at;
  };
  device.pool.parallel_for(cut.blocks * cut.strips, [&](int64_t task, int worker) {
    const typename P::Scope scope;
    (void)scope;
    const ProductTask at = task_at(task);
    float* sums = static_cast<float*>(device.thread_scratch(worker));
    Packed* packed = reinterpret_cast<Packed*>(sums + P::kRowBlock * kColBlock);
    const int64_t packed_cols = round_up(at.cols, P::kCols);
    Piece<P> pieces[kChain];
    int chained = 0;
    int64_t depth_used = 0;
    bool begin = true;
    const auto step_of = [&](const Term<P>& term) {
      return in_place ? P::kShortDepth : depth_block(term.left.depth, P::kDepthBlock);
    };
    const auto flush = [&](bool last, const Upcoming& upcoming) {
      multiply_pieces(pieces, chained, at.first_row, at.rows, at.first_col, at.cols, sums, begin,
                      &epilogue, last, row_begin, upcoming);
      chained = 0;
      depth_used = 0;
      begin = false;
    };
    for (int64_t t = 0; t < term_count; ++t) {
      const Term<P>& term = terms[t];
      if (term.row_end <= at.first_row || term.row_begin >= at.first_row + at.rows) continue;
      const int64_t step = step_of(term);
      for (int64_t k0 = 0; k0 < term.left.depth; k0 += step) {
        const int64_t depth = smaller(step, term.left.depth - k0);
        const int64_t padded = padded_depth<P>(depth);
        if (chained > 0 && (in_place || chained == kChain || depth_used + padded > kChainDepth<P>))
          flush(false, upcoming_block<P>(term, at, k0, depth));
        Piece<P>& piece = pieces[chained++];
        piece = {&term, k0, depth};
        if (in_place) {
          const Source& source = term.right.source;
          piece.row_stride = source.stride;
          piece.right = static_cast<const Packed*>(source.data) + k0 * source.stride + at.first_col;
        } else {
          Packed* to = packed + depth_used * packed_cols;
          P::pack_right(term.right, at.first_col, at.cols, k0, depth, to);
          piece.right = to;
        }
        depth_used += padded;
      }
    }
    // Most often a worker goes on with the task that follows.
    Upcoming upcoming;
    if (task + 1 < cut.blocks * cut.strips)
      upcoming = upcoming_block<P>(terms[0], task_at(task + 1), 0,
                                   smaller(step_of(terms[0]), terms[0].left.depth));
    flush(true, upcoming);
  });
}

template <typename P>
constexpr bool product_fits_scratch() {
  return kColBlock * (P::kRowBlock * 4 +
                      kChainDepth<P> * static_cast<int64_t>(sizeof(typename P::Packed))) <=
         static_cast<int64_t>(kThreadScratchBytes);
}
static_assert(product_fits_scratch<Products>(), "raise kThreadScratchBytes");
static_assert(2 * Products::kRows * Products::kLongRun <= kColBlock * Products::kRowBlock,
              "sums of a long run fit where a block's do");
