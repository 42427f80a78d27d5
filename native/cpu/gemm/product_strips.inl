// The product of policies whose units are so fast that the caches feed them only if nearly all
// operands are met in the first two. A strip of the right operand is packed over its whole depth
// and stays in the second cache; the left operand's panels pass by once per strip, each depth block
// of one staying in the first cache while the strip's panels are streamed past it. So a weight is
// packed once, whatever the rows, and outputs are written in runs as long as a strip.

constexpr int64_t kStripBytes = int64_t{1} << 20;  // of a packed strip
constexpr int64_t kMostStripCols = 512;

// Columns of a strip whose terms have this depth together; 0 if the second cache can't hold any.
template <typename P>
int64_t strip_cols(int64_t rows, int64_t depth) {
  const int64_t fitting = kStripBytes / (depth * static_cast<int64_t>(sizeof(typename P::Packed)));
  // Few rows use a strip only once or twice: it stays in the first cache.
  const int64_t most = rows <= 2 * P::kRows ? 2 * P::kCols : kMostStripCols;
  return smaller(most, fitting / P::kCols * P::kCols);
}

// One row panel against a strip.
template <typename P>
struct StripRow {
  const Term<P>* terms;
  int64_t term_count, row, rows, output_row;  // rows: up to the end, this panel's and all after it
  int64_t first_col, cols;
  const typename P::Packed* packed;  // the terms' panels one after the other
  float* sums;                       // [column panel][P::kRows][P::kCols]
  Meanwhile<P>& meanwhile;
  float (*tiles)[P::kRows * P::kCols];
  int& turn;

  Panels<P> panels[kChain];
  int chained = 0;
  bool begun = false;

  void run() {
    const int64_t packed_cols = round_up(cols, P::kCols);
    const typename P::Packed* right = packed;
    int64_t depth_used = 0;
    for (int64_t t = 0; t < term_count; ++t) {
      const Term<P>& term = terms[t];
      const bool covers = row + P::kRows > term.row_begin && row < term.row_end;
      const int64_t block = depth_block(term.left.depth, P::kDepthBlock);
      for (int64_t k0 = 0; k0 < term.left.depth; k0 += block) {
        const int64_t depth = smaller(block, term.left.depth - k0), padded = padded_depth<P>(depth);
        if (covers) {
          if (chained == kChain || (chained > 0 && depth_used + padded > kChainDepth<P>)) {
            multiply(false);
            depth_used = 0;
          }
          panels[chained++] = Panels<P>(Piece<P>{&term, k0, depth, right});
          depth_used += padded;
        }
        right += padded * packed_cols;
      }
    }
    multiply(true);
  }

  void multiply(bool last) {
    const int64_t skipped = larger(0, output_row - row);
    const int64_t out_rows = smaller(P::kRows, rows) - skipped;
    for (int64_t c = 0; c < cols; c += P::kCols) {
      const int64_t out_cols = smaller(P::kCols, cols - c);
      typename P::Factors factors[kChain];
      for (int i = 0; i < chained; ++i) factors[i] = panels[i].at(row / P::kRows, c / P::kCols);
      float* at = sums + c * P::kRows;
      float* to = last ? tiles[turn] : at;
      if (last) meanwhile.ask_for(row + skipped, first_col + c, out_rows, out_cols);
      P::template multiply<true>(factors, chained, rows, cols - c, begun ? at : nullptr, P::kCols,
                                 to, P::kCols, [&] { meanwhile.some(P::kSideRows); });
      if (!last) continue;
      meanwhile.next(row + skipped, first_col + c, out_rows, out_cols, to + skipped * P::kCols);
      turn ^= 1;
    }
    begun = true;
    chained = 0;
  }
};

template <typename P>
void multiply_strips(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
                     int64_t row_end, int64_t cols, int64_t most_cols, const Epilogue& epilogue) {
  const int64_t origin = row_begin / P::kRows * P::kRows;
  const Cut cut = cut_product<P>(row_end - origin, cols, P::kCols, most_cols, device.pool.size());
  device.pool.parallel_for(cut.blocks * cut.strips, [&](int64_t task, int worker) {
    const typename P::Scope scope;
    (void)scope;
    const int64_t first_row = origin + task / cut.strips * cut.block_rows;
    const int64_t end_row = smaller(first_row + cut.block_rows, row_end);
    const int64_t first_col = task % cut.strips * cut.strip_cols;
    const int64_t count = smaller(cut.strip_cols, cols - first_col);
    float* sums = static_cast<float*>(device.thread_scratch(worker));
    auto* packed = reinterpret_cast<typename P::Packed*>(sums + P::kRows * kMostStripCols);
    typename P::Packed* to = packed;
    for (int64_t t = 0; t < term_count; ++t) {
      const int64_t depth = terms[t].left.depth, block = depth_block(depth, P::kDepthBlock);
      for (int64_t k0 = 0; k0 < depth; k0 += block) {
        const int64_t n = smaller(block, depth - k0);
        P::pack_right(terms[t].right, first_col, count, k0, n, to);
        to += padded_depth<P>(n) * round_up(count, P::kCols);
      }
    }
    alignas(64) float tiles[2][P::kRows * P::kCols];
    int turn = 0;
    Meanwhile<P> meanwhile;
    meanwhile.epilogue = &epilogue;
    for (int64_t row = first_row; row < end_row; row += P::kRows) {
      StripRow<P> strip_row{terms,     term_count, row,    end_row - row, row_begin,
                            first_col, count,      packed, sums,          meanwhile,
                            tiles,     turn,       {}};
      strip_row.run();
    }
    meanwhile.some(P::kRows);
  });
}

template <typename P>
constexpr bool strips_fit_scratch() {
  return P::kRows * kMostStripCols * 4 + kStripBytes <= static_cast<int64_t>(kThreadScratchBytes);
}

// Output rows [row_begin, row_end), all `cols` columns. The first term covers every row.
template <typename P>
void multiply(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
              int64_t row_end, int64_t cols, const Epilogue& epilogue) {
  if constexpr (P::kStrips) {
    static_assert(strips_fit_scratch<P>(), "raise kThreadScratchBytes");
    int64_t depth = 0;
    for (int64_t t = 0; t < term_count; ++t) depth += padded_depth<P>(terms[t].left.depth);
    const int64_t most_cols = strip_cols<P>(row_end - row_begin, depth);
    if (most_cols > 0) {
      multiply_strips<P>(device, terms, term_count, row_begin, row_end, cols, most_cols, epilogue);
      return;
    }
  }
  multiply_blocks<P>(device, terms, term_count, row_begin, row_end, cols, epilogue);
}
