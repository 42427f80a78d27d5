// Flash-attention forward over bf16 panels: the task of attention_forward.inl with the scores Q
// K^T, [query][key], so that P is a left panel and the sums P V are rows of the output. A panel of
// 32 queries takes kStepKeys keys a step. The softmax of a step is computed between the
// instructions of the products of its neighbours (the scores of the next one, P V of the last one):
// tiles and vectors work at once. Only P is rounded, to bf16; the sum of the softmax takes it
// unrounded.

constexpr float kLn2 = 0x1.62e43p-1f;

// Scales what a panel summed before `step`, where that has changed what is subtracted.
inline void rescale_panel(const TileForwardScratch& s, const KeyStep& step, int64_t dim) {
  for (int64_t lane = step.panel * kPanel; lane < (step.panel + 1) * kPanel; ++lane) {
    const float change = s.change[lane];
    s.change[lane] = 1;
    if (step.first || change == 1) continue;
    float* row = s.out + lane * dim;
    for (int64_t i = 0; i < dim; i += kLanes) store(row + i, load(row + i) * splat(change));
  }
}

// One task: the queries of a block for some heads of a group, in panels of lanes. A head's queries
// are filled up to whole vectors of lanes.
struct TileForwardBlock {
  const AttentionForward& op;
  const Document document;
  const PackedHead& keys;
  const QueryBlock& block;
  int64_t head_begin, head_count;
  TileForwardScratch s;
  int64_t dim = padded_dim(op.head_dim);
  int64_t lanes_per_head = round_up(block.rows, kLanes);
  int64_t panels = round_up(lanes_per_head * head_count, kPanel) / kPanel;

  // Where a vector of lanes stands in the matrices, and how many of them are queries.
  struct Queries {
    int64_t head, row, count;
  };
  Queries queries(int64_t lane) const {
    const int64_t head = lane / lanes_per_head, row = lane % lanes_per_head;
    const int64_t count = head < head_count ? smaller(kLanes, block.rows - row) : 0;
    return {head_begin + head, document.q_begin + block.begin + row, count};
  }

  void run() {
    for (int64_t lane = 0; lane < panels * kPanel; lane += kLanes) {
      s.lanes.set(lane, document, block.begin + lane % lanes_per_head, queries(lane).count);
      store(s.change + lane, splat(1));
      for (int64_t i = 0; i < kLanes; ++i) store(s.sum + (lane + i) * kLanes, F32{});
    }
    const int64_t key_begin = document.visible(block.begin).low / kPanel * kPanel;
    const int64_t key_end = round_up(document.visible(block.begin + block.rows - 1).high, kPanel);
    KeySteps steps{s.lanes, panels, key_begin, key_end};
    KeyStep last, now;
    int turn = 0;
    do {
      const KeyStep next = steps.next();
      step(turn, next, now, last);
      last = now, now = next, turn = 1 - turn;
    } while (now.panels() + last.panels() > 0);
  }

  // The scores of `next`, the softmax of `now`, and P V of `last`; each may have no keys. Buffers
  // of `now` are those of index `turn`.
  void step(int turn, const KeyStep& next, KeyStep& now, const KeyStep& last) {
    const StepSoftmax softmax{s, now, s.scores[turn], s.p[turn], op.scale * kLog2E};
    if (last.rescaled) rescale_panel(s, last, dim);
    if (next.first) begin_panel(next.panel);
    if (now.first) softmax.begin_panel();
    const int64_t places =
        next.panels() * places_beside(dim) +
        (last.panels() > 0 ? dim / kPanel * places_beside(last.panels() * kPanel) : 0);
    const int64_t rows = now.panels() > 0 ? kPanel : 0;
    int64_t place = 0, row = 0;
    const auto beside = [&] {
      const int64_t end = ++place * rows / places;
      if (row < end) softmax.rows(row, end);
      row = end;
    };
    for (int64_t i = 0; i < next.panels(); ++i)
      multiply_panels(s.q + next.panel * kPanel * dim, keys.k + (next.keys.low + i * kPanel) * dim,
                      dim, s.scores[1 - turn] + i * kPanel, kStepKeys, true, beside);
    if (last.panels() > 0)
      for (int64_t i = 0; i < dim; i += kPanel)
        multiply_panels(s.p[1 - turn], keys.v + i * keys.rows + last.keys.low / kPanel * kStep,
                        last.panels() * kPanel, s.out + last.panel * kPanel * dim + i, dim,
                        last.first, beside);
    if (row < rows) softmax.rows(row, rows);
    if (last.last) end_panel(last.panel);
  }

  void begin_panel(int64_t panel) const {
    for (int64_t half = 0; half < 2; ++half) {
      const Queries at = queries(panel * kPanel + half * kLanes);
      pack_left_half(head_rows(op.q, at.row, at.head * op.head_dim, at.count, op.head_dim),
                     s.q + panel * kPanel * dim + half * kTile);
    }
  }

  void end_panel(int64_t panel) const {
    for (int64_t lane = panel * kPanel; lane < (panel + 1) * kPanel; lane += kLanes) {
      const Queries at = queries(lane);
      F32 sums{};
      for (int64_t i = 0; i < at.count; ++i) {
        sums[i] = reduce_add(load(s.sum + (lane + i) * kLanes));
        unpack_row(s.out + (lane + i) * dim, op.head_dim, 1 / sums[i],
                   row_of<BF16>(op.out, at.row + i, at.head * op.head_dim));
      }
      if (!op.lse || at.count == 0) continue;
      store_n(op.lse + at.head * op.q.rows + at.row,
              fma(load(s.max + lane), splat(kLn2), log(sums)), at.count);
    }
  }
};

// The block of attention_forward.inl's forward_block over tiles.
inline void tile_forward_block(const AttentionForward& op, const PackedHead& keys,
                               const QueryBlock& block, int64_t head_begin, int64_t head_count,
                               float* memory) {
  TileForwardBlock task{op,
                        Document(op, block.document),
                        keys,
                        block,
                        head_begin,
                        head_count,
                        tile_forward_scratch(memory, op.head_dim)};
  task.run();
}
