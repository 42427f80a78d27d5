// What blocked products are made of. out = epilogue(sum over terms of left x right), where a term
// with rows [row_begin, row_end) adds to those output rows only. Left operands are packed by the
// caller (they are used by many column strips, and often by several products), unless they can be
// read where they stand; right operands, the weights, are decoded and packed by the tasks.

constexpr int64_t kColBlock = kStripCols;  // columns of one task at most
constexpr int64_t kLeastRows = 96;         // rows of one task when there are few tasks

template <typename P>
struct PackedLeft {
  const typename P::Packed* data = nullptr;  // panels of P::kRows rows over the whole depth
  int64_t first_panel = 0;                   // the panel that stands first in `data`
  int64_t depth = 0;
  int64_t row_stride = 0;  // of panels that are rows of a matrix; 0: blocks of depth, [row][k]
};

template <typename P>
LOWRANK_INLINE int64_t padded_depth(int64_t depth) {
  return round_up(depth, P::kDepthUnit);
}

template <typename P>
LOWRANK_INLINE int64_t packed_left_bytes(int64_t rows, int64_t depth) {
  const int64_t elements = round_up(rows, P::kRows) * P::left_stride(depth);
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
  if (P::reads_left_in_place(left, row_end, depth)) {
    packed.data = static_cast<const Packed*>(left.source.data);
    packed.row_stride = left.source.stride;
    return packed;
  }
  packed.data = static_cast<const Packed*>(to);
  packed.first_panel = row_begin / P::kRows;
  if (P::kLeftRows) packed.row_stride = P::left_stride(depth);
  const int64_t panels = (row_end + P::kRows - 1) / P::kRows - packed.first_panel;
  const int64_t panel_size = P::left_stride(depth) * P::kRows;
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

// One block of a term's depth against some columns: the right operand's packed panels, or rows of a
// plain f32 operand.
template <typename P>
struct Piece {
  const Term<P>* term = nullptr;
  int64_t k0 = 0, depth = 0;
  const typename P::Packed* right = nullptr;
  int64_t row_stride = 0;  // of a right operand that is read where it stands; 0: packed
};

// Where a piece's panels stand.
template <typename P>
struct Panels {
  using Packed = typename P::Packed;
  explicit Panels(const Piece<P>& piece) : term(piece.term) {
    const PackedLeft<P>& packed = term->left;
    depth = round_up(piece.depth, P::kDepthStep);
    left = packed.data;
    left_stride = packed.row_stride;
    if (left_stride > 0) {
      left_panel = P::kRows * left_stride;
      left += piece.k0;
    } else {
      const int64_t size = depth_block(packed.depth, P::kDepthBlock),
                    block = piece.k0 / size * size;
      left_stride = padded_depth<P>(smaller(size, packed.depth - block));
      left_panel = padded_depth<P>(packed.depth) * P::kRows;
      left += block * P::kRows + piece.k0 - block;
    }
    left -= packed.first_panel * left_panel;
    right = piece.right;
    right_panel = piece.row_stride == 0 ? P::kCols * padded_depth<P>(piece.depth) : P::kCols;
    right_stride = piece.row_stride == 0 ? P::kCols : piece.row_stride;
  }
  Panels() = default;

  LOWRANK_INLINE bool covers(int64_t row) const {
    return row + P::kRows > term->row_begin && row < term->row_end;
  }
  LOWRANK_INLINE typename P::Factors at(int64_t row_panel, int64_t col_panel) const {
    return {left + row_panel * left_panel, left_stride, right + col_panel * right_panel,
            right_stride, depth};
  }

  const Term<P>* term = nullptr;
  const Packed *left = nullptr, *right = nullptr;
  int64_t left_panel = 0, left_stride = 0, right_panel = 0, right_stride = 0, depth = 0;
};

// Pieces whose shares of a tile are added before it goes to memory.
constexpr int kChain = 4;
// Their depth together: room for an adapter's rank behind a block of the weight.
template <typename P>
constexpr int64_t kChainDepth = P::kDepthBlock + 64;
static_assert(kChainDepth<Products> / Products::kDepthStep / kAheadSteps <= Ahead::kLines);

// Calls body(row, col) for the tiles of some rows and columns. The operand that passes by is the
// streamed one: right panels where a row panel stays in the first cache, or the other way round.
template <typename P, typename Body>
LOWRANK_INLINE void for_each_tile(int64_t rows, int64_t cols, const Body& body) {
  if constexpr (P::kStrips) {
    for (int64_t r = 0; r < rows; r += P::kRows)
      for (int64_t c = 0; c < cols; c += P::kCols) body(r, c);
  } else {
    for (int64_t c = 0; c < cols; c += P::kCols)
      for (int64_t r = 0; r < rows; r += P::kRows) body(r, c);
  }
}

// Adds the pieces' shares to the sums, [column panel][row][P::kCols], or begins them. `last`: each
// tile's sums go to the output from row `output_row` on, while they are in the first cache, and not
// to `sums`. Meanwhile `upcoming` is asked for.
template <typename P>
void multiply_pieces(const Piece<P>* pieces, int count, int64_t first_row, int64_t rows,
                     int64_t first_col, int64_t cols, float* sums, bool begin,
                     const Epilogue* epilogue, bool last, int64_t output_row, Upcoming upcoming) {
  alignas(64) float tile[P::kRows * P::kCols];
  typename P::Side side;
  Panels<P> panels[kChain];
  for (int i = 0; i < count; ++i) panels[i] = Panels<P>(pieces[i]);
  const int64_t padded_rows = round_up(rows, P::kRows), first_panel = first_row / P::kRows;
  const int64_t lines =
      upcoming.lines_per_tile(padded_rows / P::kRows * (round_up(cols, P::kCols) / P::kCols));
  const bool in_place = !P::kStrips && epilogue && epilogue->is_plain(DType::kF32);
  for_each_tile<P>(rows, cols, [&](int64_t r, int64_t c) {
    const int64_t row = first_row + r, skipped = larger(0, output_row - row);
    const int64_t tile_rows = smaller(P::kRows, rows - r) - skipped;
    const int64_t tile_cols = smaller(P::kCols, cols - c);
    typename P::Factors factors[kChain];
    int used = 0;
    for (int i = 0; i < count; ++i)
      if (panels[i].covers(row))
        factors[used++] = panels[i].at(first_panel + r / P::kRows, c / P::kCols);
    if (used == 0 && !last) return;
    float* at = sums + c * padded_rows + r * P::kCols;
    const bool direct =
        in_place && skipped == 0 && tile_cols == P::kCols && tile_rows % P::kRowStep == 0;
    const float* from = begin ? nullptr : at;
    int64_t from_stride = P::kCols, to_stride = P::kCols;
    float* to = at;
    if (direct && begin) from = epilogue->begin_at(row, first_col + c, &from_stride);
    if (direct && last) to = epilogue->out_at(row, first_col + c), to_stride = epilogue->row_stride;
    if (!direct && last) to = tile;
    if constexpr (!P::kStrips) {
      const auto runs = last ? epilogue->runs_at(row + skipped, first_col + c, tile_rows, tile_cols)
                             : Epilogue::Runs{};
      side.count = 0;
      for (int64_t byte = 0; byte < runs.bytes; byte += 64)
        side.add(runs.at + byte, runs.stride, runs.rows);
      upcoming.give(side, lines);
    }
    P::multiply(factors, used, rows - r, cols - c, from, from_stride, to, to_stride, side);
    if (last && !direct)
      finish_tile_of<P>(*epilogue, row + skipped, first_col + c, tile_rows, tile_cols,
                        to + skipped * P::kCols);
  });
}

// How a product is cut into tasks: strips of columns x blocks of rows.
struct Cut {
  int64_t strips = 1, strip_cols = 0, blocks = 1, block_rows = 0;
};

// The cut that is done first. Every task packs its strip, and the last tasks to run leave threads
// idle. An element's sum doesn't depend on the cut, which may thus follow from the threads.
template <typename P>
Cut cut_product(int64_t rows, int64_t cols, int64_t col_unit, int64_t most_rows, int64_t most_cols,
                int64_t threads) {
  const int64_t least_strips = larger(1, (cols + most_cols - 1) / most_cols);
  const int64_t least_blocks = larger(1, (rows + most_rows - 1) / most_rows);
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
      // Whoever is disturbed ends a part of a task later.
      const int64_t parts = P::kTaskParts * rounds + (threads > 1);
      const int64_t cost =
          parts * (cut.strip_cols + P::kPackCols) * (cut.block_rows + P::kPackRows);
      if (best_cost == 0 || cost < best_cost) best = cut, best_cost = cost;
    }
  return best;
}
