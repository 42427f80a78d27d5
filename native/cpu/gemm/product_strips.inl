// The product of policies whose units are so fast that the caches feed them only if nearly all
// operands are met in the first two. A strip of the right operand is packed over its whole depth
// and stays in the second cache; the left operand's panels pass by once per strip, each depth block
// of one staying in the first cache while the strip's panels are streamed past it. So a weight is
// packed once, whatever the rows, and outputs are written in runs as long as a strip.

constexpr int64_t kStripBytes = int64_t{1} << 20;  // of a packed strip
constexpr int64_t kMostStripCols = 512, kLeastStripCols = 160;
// Of a strip too deep for that the depth is cut into slabs, between which its sums stay there too.
// A slab holds two blocks of depth, and behind the last ones an adapter's rank.
constexpr int64_t kSlabCols = 256, kSlabRows = 512;
template <typename P>
constexpr int64_t kSlabDepth = 2 * P::kDepthBlock + 64;

// The size of a task whose terms have this depth together.
struct StripSize {
  int64_t cols, rows, depth;  // depth: of a slab
};
template <typename P>
StripSize strip_size(int64_t rows, int64_t depth) {
  constexpr int64_t kSize = static_cast<int64_t>(sizeof(typename P::Packed));
  const int64_t fitting = kStripBytes / (depth * kSize) / P::kCols * P::kCols;
  if (fitting >= kLeastStripCols) return {smaller(kMostStripCols, fitting), rows, depth};
  return {kSlabCols, kSlabRows, kSlabDepth<P>};
}

// A task's memory.
template <typename P>
struct StripMemory {
  using Packed = typename P::Packed;
  static constexpr int64_t kRight = kStripBytes / static_cast<int64_t>(sizeof(Packed));
  // Of each row panel that waits for more depth, [column panel][P::kRows][P::kCols].
  float sums[kSlabRows * kSlabCols];
  Packed right[kRight];  // [block of depth][column panel][a right panel]
};

// One strip of columns and some rows.
template <typename P>
struct StripTask {
  using Packed = typename P::Packed;
  explicit StripTask(StripMemory<P>& scratch) : memory(scratch) {}

  const Term<P>* terms = nullptr;
  int64_t term_count = 0, first_row = 0, end_row = 0, output_row = 0, first_col = 0, cols = 0;
  int64_t slab_depth = 0;
  const Epilogue* epilogue = nullptr;
  StripMemory<P>& memory;

  Meanwhile<P> meanwhile;
  int turn = 0;
  alignas(64) float tiles[2][P::kRows * P::kCols];

  // A block of a term's depth and where its panels begin.
  struct Block {
    const Term<P>* term = nullptr;
    int64_t k0 = 0, depth = 0;
    Packed* right = nullptr;
    Panels<P> panels;
  };
  // Blocks whose shares of a tile are added before it goes to memory.
  struct Chain {
    Block blocks[kChain];
    int count = 0, slab = 0;
    bool begin = true, last = false;
  };

  // Calls body(chain) for all blocks of depth in order.
  template <typename Body>
  LOWRANK_INLINE void for_each_chain(const Body& body) const {
    Chain chain;
    int64_t used = 0, slab_used = 0;
    Packed* right = memory.right;
    for (int64_t t = 0; t < term_count; ++t) {
      const Term<P>& term = terms[t];
      const int64_t most = depth_block(term.left.depth, P::kDepthBlock);
      for (int64_t k0 = 0; k0 < term.left.depth; k0 += most) {
        const int64_t depth = smaller(most, term.left.depth - k0), padded = padded_depth<P>(depth);
        const bool next_slab = slab_used > 0 && slab_used + padded > slab_depth;
        if (next_slab || chain.count == kChain ||
            (chain.count > 0 && used + padded > kChainDepth<P>)) {
          body(chain);
          chain.begin = false;
          chain.count = 0;
          used = 0;
        }
        if (next_slab) {
          ++chain.slab;
          slab_used = 0;
          right = memory.right;
        }
        Block& block = chain.blocks[chain.count++];
        block.term = &term, block.k0 = k0, block.depth = depth;
        block.right = right;
        block.panels = Panels<P>(Piece<P>{&term, k0, depth, right});
        right += padded * round_up(cols, P::kCols);
        used += padded;
        slab_used += padded;
      }
    }
    chain.last = true;
    body(chain);
  }

  void run() {
    int slabs = 0;
    int64_t depth = 0;  // of a chain
    for_each_chain([&](const Chain& chain) {
      slabs = chain.slab + 1;
      depth = larger(depth, chain.blocks[0].depth);
    });
    meanwhile.begin(epilogue, depth / P::kDepthUnit);
    for (int slab = 0; slab < slabs; ++slab) {
      for_each_chain([&](const Chain& chain) {
        if (chain.slab == slab) pack(chain);
      });
      for (int64_t row = first_row; row < end_row; row += P::kRows) run_panel(row, slab, slabs > 1);
    }
    meanwhile.finish();
  }

  void pack(const Chain& chain) {
    for (int i = 0; i < chain.count; ++i) {
      const Block& block = chain.blocks[i];
      P::pack_right(block.term->right, first_col, cols, block.k0, block.depth, block.right);
    }
  }

  // A slab's panels pass by a block of one row panel.
  void run_panel(int64_t row, int slab, bool waits) {
    const int64_t panel = waits ? row - first_row : 0;
    float* sums = memory.sums + panel * round_up(cols, P::kCols);
    bool asked = row + P::kRows >= end_row;
    for_each_chain([&](const Chain& chain) {
      if (chain.slab != slab) return;
      if (!asked) ask_for_panel(row + P::kRows, chain.blocks[0].k0);
      asked = true;
      for (int64_t c = 0; c < cols; c += P::kCols) multiply(chain, row, c, sums + c * P::kRows);
    });
  }

  // The first term's rows come from beyond the second cache while those before them are multiplied.
  void ask_for_panel(int64_t row, int64_t k0) {
    constexpr int64_t kSize = static_cast<int64_t>(sizeof(Packed));
    const PackedLeft<P>& left = terms[0].left;
    const int64_t first = row - left.first_panel * P::kRows;
    const int64_t depth = smaller(slab_depth, left.depth - k0);
    const bool whole = depth == left.depth;
    meanwhile.ask_for(left.data + first * left.row_stride + k0,
                      (whole ? P::kRows * left.row_stride : depth) * kSize, left.row_stride * kSize,
                      whole ? 1 : P::kRows);
  }

  // A tile's sums of a chain; after the last one they go to the output during the next tile.
  LOWRANK_INLINE void multiply(const Chain& chain, int64_t row, int64_t c, float* sums) {
    const int64_t skipped = larger(0, output_row - row), rows = smaller(P::kRows, end_row - row);
    const int64_t out_cols = smaller(P::kCols, cols - c);
    typename P::Factors factors[kChain];
    int used = 0;
    for (int i = 0; i < chain.count; ++i)
      if (chain.blocks[i].panels.covers(row))
        factors[used++] = chain.blocks[i].panels.at(row / P::kRows, c / P::kCols);
    float* to = chain.last ? tiles[turn] : sums;
    if (chain.last) meanwhile.ask_for(row + skipped, first_col + c, rows - skipped, out_cols);
    P::multiply(factors, used, rows, cols - c, chain.begin ? nullptr : sums, P::kCols, to, P::kCols,
                meanwhile.steps);
    if (!chain.last) return;
    meanwhile.next(row + skipped, first_col + c, rows - skipped, out_cols, to + skipped * P::kCols);
    turn ^= 1;
  }
};

template <typename P>
void multiply_strips(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
                     int64_t row_end, int64_t cols, const Epilogue& epilogue) {
  int64_t depth = 0;
  for (int64_t t = 0; t < term_count; ++t) depth += padded_depth<P>(terms[t].left.depth);
  const int64_t origin = row_begin / P::kRows * P::kRows;
  const StripSize size = strip_size<P>(row_end - origin, depth);
  const Cut cut =
      cut_product<P>(row_end - origin, cols, P::kCols, size.rows, size.cols, device.pool.size());
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
    strip.slab_depth = size.depth;
    strip.epilogue = &epilogue;
    strip.run();
  });
}

// Output rows [row_begin, row_end), all `cols` columns. The first term covers every row.
template <typename P>
void multiply(CpuDevice& device, const Term<P>* terms, int64_t term_count, int64_t row_begin,
              int64_t row_end, int64_t cols, const Epilogue& epilogue) {
  if constexpr (P::kStrips) {
    static_assert(sizeof(StripMemory<P>) <= kThreadScratchBytes, "raise kThreadScratchBytes");
    // One row panel uses a strip only once: packed block by block (product_blocks.inl) it stays
    // nearer.
    if (row_end - row_begin > P::kRows) {
      multiply_strips<P>(device, terms, term_count, row_begin, row_end, cols, epilogue);
      return;
    }
  }
  multiply_blocks<P>(device, terms, term_count, row_begin, row_end, cols, epilogue);
}
