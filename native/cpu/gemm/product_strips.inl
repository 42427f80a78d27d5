// The product of policies whose units are so fast that the caches feed them only if nearly all
// operands are met in the first two. A strip of the right operand is packed over its whole depth
// and stays in the second cache; the left operand's panels pass by once per strip, each depth block
// of one staying in the first cache while the strip's panels are streamed past it. So a weight is
// packed once, whatever the rows, and outputs are written in runs as long as a strip.

constexpr int64_t kStripBytes = int64_t{1} << 20;  // of a packed strip
constexpr int64_t kMostStripCols = 512;

// Columns of a strip whose terms have this depth together; 0 if the second cache can't hold any.
template <typename P>
int64_t strip_cols(int64_t depth) {
  const int64_t fitting = kStripBytes / (depth * static_cast<int64_t>(sizeof(typename P::Packed)));
  return smaller(kMostStripCols, fitting / P::kCols * P::kCols);
}

constexpr int64_t kMostProjected = 64;  // rank of a projection

// A task's memory.
template <typename P>
struct StripMemory {
  using Packed = typename P::Packed;
  float sums[P::kRows * kMostStripCols];        // [column panel][P::kRows][P::kCols]
  float projection[P::kRows * kMostProjected];  // the same, of the projection
  Packed left[P::kRows * kChainDepth<P>];       // blocks of a row panel, packed in turn
  Packed projected[P::kRows * kMostProjected];  // the projection's row panel
  Packed right[kStripBytes / sizeof(Packed)];   // the terms' panels one after the other
  Packed projection_right[kMostProjected * kStripBytes / (P::kCols * sizeof(Packed))];
};

// One strip of columns and some rows.
template <typename P>
struct StripTask {
  using Packed = typename P::Packed;
  explicit StripTask(StripMemory<P>& scratch) : memory(scratch) {}

  const Term<P>* terms = nullptr;
  int64_t term_count = 0, first_row = 0, end_row = 0, output_row = 0, first_col = 0, cols = 0;
  bool keeps_projection = false;  // one strip of each row writes it down
  StripMemory<P>& memory;
  Meanwhile<P> meanwhile;

  const Projection* projection = nullptr;
  int64_t rank = 0;
  Panels<P> panels[kChain];
  int chained = 0, turn = 0;
  bool begun = false;
  alignas(64) float tiles[2][P::kRows * P::kCols];

  // Calls body(term, k0, depth) for every block of depth.
  template <typename Body>
  LOWRANK_INLINE void for_each_block(const Body& body) const {
    for (int64_t t = 0; t < term_count; ++t) {
      const int64_t depth = terms[t].left.depth, block = depth_block(depth, P::kDepthBlock);
      for (int64_t k0 = 0; k0 < depth; k0 += block) body(terms[t], k0, smaller(block, depth - k0));
    }
  }

  void run() {
    for (int64_t t = 0; t < term_count; ++t)
      if (terms[t].projection) projection = terms[t].projection, rank = terms[t].left.depth;
    Packed *right = memory.right, *down = memory.projection_right;
    for_each_block([&](const Term<P>& term, int64_t k0, int64_t depth) {
      P::pack_right(term.right, first_col, cols, k0, depth, right);
      right += padded_depth<P>(depth) * round_up(cols, P::kCols);
      if (!projection || &term != terms) return;
      P::pack_right(projection->right, 0, rank, k0, depth, down);
      down += padded_depth<P>(depth) * round_up(rank, P::kCols);
    });
    for (int64_t row = first_row; row < end_row; row += P::kRows) run_panel(row);
    meanwhile.some(P::kRows);
  }

  void run_panel(int64_t row) {
    const Packed *right = memory.right, *down = memory.projection_right;
    const int64_t rows = smaller(P::kRows, end_row - row);
    int64_t depth_used = 0;
    begun = false;
    if (row + P::kRows < end_row) fetch_panel(row + P::kRows);
    for_each_block([&](const Term<P>& term, int64_t k0, int64_t depth) {
      const int64_t padded = padded_depth<P>(depth);
      if (row + P::kRows > term.row_begin && row < term.row_end) {
        if (chained == kChain || (chained > 0 && depth_used + padded > kChainDepth<P>)) {
          multiply(row, rows, false);
          depth_used = 0;
        }
        Panels<P>& panel = panels[chained++];
        panel = Panels<P>(Piece<P>{&term, k0, depth, right});
        if (term.projection) {
          panel.left = memory.projected;
          panel.left_panel = 0;
        } else if (!term.left.data) {
          Packed* to = memory.left + depth_used * P::kRows;
          P::pack_left_block(term.left.operand, row, smaller(P::kRows, term.row_end - row), k0,
                             depth, to);
          panel.left = to;
          panel.left_panel = 0;
        }
        if (projection && &term == terms) {
          project(panel.at(row / P::kRows, 0), rows, k0, down);
          down += padded * round_up(rank, P::kCols);
          if (k0 + depth == term.left.depth) keep_projected(row, rows);
        }
        depth_used += padded;
      }
      right += padded * round_up(cols, P::kCols);
    });
    multiply(row, rows, true);
  }

  // Where the first term's rows from `row` on stand together, they come from beyond the second
  // cache while those before them are multiplied.
  void fetch_panel(int64_t row) {
    const PackedLeft<P>& left = terms[0].left;
    const int64_t rows = smaller(P::kRows, end_row - row);
    const int64_t depth = padded_depth<P>(left.depth);
    const int64_t steps = round_up(cols, P::kCols) / P::kCols * (depth / P::kDepthUnit);
    const Source& source = left.operand.source;
    if (left.data)
      meanwhile.fetch(left.data + (row / P::kRows - left.first_panel) * P::kRows * depth,
                      P::kRows * depth * static_cast<int64_t>(sizeof(Packed)), steps);
    else if (!left.operand.transposed && !source.rows && source.element == Element::kBF16 &&
             source.stride == left.depth)
      meanwhile.fetch(static_cast<const uint16_t*>(source.data) + row * source.stride,
                      rows * source.stride * 2, steps);
  }

  void multiply(int64_t row, int64_t rows, bool last) {
    const int64_t skipped = larger(0, output_row - row);
    for (int64_t c = 0; c < cols; c += P::kCols) {
      const int64_t out_cols = smaller(P::kCols, cols - c);
      typename P::Factors factors[kChain];
      for (int i = 0; i < chained; ++i) factors[i] = panels[i].at(row / P::kRows, c / P::kCols);
      float* at = memory.sums + c * P::kRows;
      float* to = last ? tiles[turn] : at;
      if (last) meanwhile.ask_for(row + skipped, first_col + c, rows - skipped, out_cols);
      P::template multiply<true>(factors, chained, rows, cols - c, begun ? at : nullptr, P::kCols,
                                 to, P::kCols, [&] { meanwhile.some(P::kSideRows); });
      if (!last) continue;
      meanwhile.next(row + skipped, first_col + c, rows - skipped, out_cols,
                     to + skipped * P::kCols);
      turn ^= 1;
    }
    begun = true;
    chained = 0;
  }

  // A block's share of a row panel's projection.
  void project(typename P::Factors factors, int64_t rows, int64_t k0, const Packed* down) {
    for (int64_t c = 0; c < rank; c += P::kCols) {
      factors.right = down + c * factors.depth;
      float* sums = memory.projection + c * P::kRows;
      P::template multiply<true>(&factors, 1, rows, rank - c, k0 > 0 ? sums : nullptr, P::kCols,
                                 sums, P::kCols, [&] { meanwhile.some(P::kSideRows); });
    }
  }

  void keep_projected(int64_t row, int64_t rows) {
    if (rows < P::kRows) __builtin_memset(memory.projected, 0, sizeof memory.projected);
    if (projection->out.dtype == DType::kBF16)
      keep_projected_as<BF16>(row, rows);
    else
      keep_projected_as<float>(row, rows);
  }

  template <typename T>
  void keep_projected_as(int64_t row, int64_t rows) {
    const Matrix& out = projection->out;
    const int64_t padded = round_up(rank, P::kCols);
    for (int64_t c = 0; c < rank; c += kLanes)
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t count = smaller(kLanes, rank - c);
        float* from = memory.projection + (c / P::kCols * P::kRows + i) * P::kCols + c % P::kCols;
        T rounded[kLanes];
        store(rounded, load(from));
        if (keeps_projection) {
          T* to = static_cast<T*>(out.data) + (row + i) * out.stride + c;
          if (count == kLanes)
            store(to, load(from));
          else
            for (int64_t j = 0; j < count; ++j) to[j] = rounded[j];
        }
        store(from, load(rounded) * projection->scale);
        for (int64_t j = count; j < kLanes; ++j) from[j] = 0;
        if (c + kLanes >= rank && c % P::kCols == 0) store(from + kLanes, F32{});
      }
    for (int64_t c = 0; c < rank; c += P::kCols)
      for (int64_t i = 0; i < rows; ++i) {
        const float* from = memory.projection + (c / P::kCols * P::kRows + i) * P::kCols;
        P::put_left(memory.projected, padded, i, c, load(from), load(from + kLanes));
      }
  }
};

template <typename P>
void multiply_strips(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
                     int64_t row_end, int64_t cols, int64_t most_cols, const Epilogue& epilogue) {
  const int64_t origin = row_begin / P::kRows * P::kRows;
  const Cut cut = cut_product<P>(row_end - origin, cols, P::kCols, row_end - origin, most_cols,
                                 device.pool.size());
  device.pool.parallel_for(cut.blocks * cut.strips, [&](int64_t task, int worker) {
    const typename P::Scope scope;
    (void)scope;
    const int64_t first_row = origin + task / cut.strips * cut.block_rows;
    const int64_t first_col = task % cut.strips * cut.strip_cols;
    StripTask<P> strip(*static_cast<StripMemory<P>*>(device.thread_scratch(worker)));
    strip.terms = terms, strip.term_count = term_count;
    strip.first_row = first_row, strip.output_row = row_begin;
    strip.end_row = smaller(first_row + cut.block_rows, row_end);
    strip.first_col = first_col, strip.cols = smaller(cut.strip_cols, cols - first_col);
    strip.keeps_projection = first_col == 0;
    strip.meanwhile.epilogue = &epilogue;
    strip.run();
  });
}

constexpr int64_t kRepacked = 3;  // times at most

// A left operand that a product with `cols` columns packs as it goes, where that is cheaper. Other
// terms' depth may be `other_depth` together; no product may have more columns or depth.
template <typename P>
PackedLeft<P> pack_left_later(CpuDevice& device, const Operand& left, int64_t row_begin,
                              int64_t row_end, int64_t depth, int64_t other_depth, int64_t cols,
                              void* to) {
  // Every strip packs it again.
  const int64_t strip = strip_cols<P>(padded_depth<P>(depth) + other_depth);
  if (!P::kStrips || strip * kRepacked < cols)
    return pack_left<P>(device, left, row_begin, row_end, depth, to);
  PackedLeft<P> later;
  later.depth = depth;
  later.operand = left;
  return later;
}

// Output rows [row_begin, row_end), all `cols` columns. The first term covers every row.
template <typename P>
void multiply(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
              int64_t row_end, int64_t cols, const Epilogue& epilogue) {
  if constexpr (P::kStrips) {
    static_assert(sizeof(StripMemory<P>) <= kThreadScratchBytes, "raise kThreadScratchBytes");
    int64_t depth = 0;
    // One row panel uses a strip only once: packed block by block (product_blocks.inl) it stays nearer.
    bool once = row_end - row_begin <= P::kRows && terms[0].left.data;
    for (int64_t t = 0; t < term_count; ++t) {
      depth += padded_depth<P>(terms[t].left.depth);
      once = once && !terms[t].projection;
    }
    const int64_t most_cols = strip_cols<P>(depth);
    if (most_cols > 0 && !once) {
      multiply_strips<P>(device, terms, term_count, row_begin, row_end, cols, most_cols, epilogue);
      return;
    }
  }
  multiply_blocks<P>(device, terms, term_count, row_begin, row_end, cols, epilogue);
}
