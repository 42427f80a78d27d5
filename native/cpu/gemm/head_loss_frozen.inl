// The head and cross-entropy of a frozen head in one pass over the weight, as flash attention does
// with keys that are values too (Dao, arXiv 2307.08691): of each strip of the vocabulary the logits
// of some rows become exp(logit - reference), which are summed and multiplied with the same strip.
// No logit outlives its strip, and a strip is read once for both products.

constexpr int64_t kHeadBudget = int64_t{64} << 20;  // bytes of workspace
constexpr int64_t kHeadStrip = 256;    // words of one strip, at most P::kDepthBlock and kColBlock
constexpr int64_t kHeadTasks = 32;     // tasks at most for a handful of row blocks
constexpr int64_t kLeastWords = 4096;  // words of one task
constexpr float kHeadSlack = 8;        // exp(8) still leaves f32 all its digits

// How the work is cut. It follows from the shape alone: parts of the vocabulary are summed apart.
template <typename P>
struct HeadCut {
  HeadCut(int64_t labelled, int64_t hidden, int64_t vocabulary, bool backward) {
    padded_hidden = backward ? round_up(hidden, P::kCols) : 0;
    const int64_t blocks = larger(1, (labelled + P::kHeadRows - 1) / P::kHeadRows);
    const int64_t packed =
        P::left_stride(hidden) * static_cast<int64_t>(sizeof(typename P::Packed));
    const int64_t part_bytes = padded_hidden * 4 + static_cast<int64_t>(sizeof(HeadSums));
    const int64_t budget =
        (kHeadBudget - (int64_t{1} << 20)) / P::kHeadRows;  // of a row in a block
    parts = smaller(kHeadTasks / blocks, vocabulary / kLeastWords);
    parts = larger(1, smaller(parts, (budget - packed) / part_bytes));
    words = round_up((vocabulary + parts - 1) / parts, kHeadStrip);
    parts = (vocabulary + words - 1) / words;
    row_bytes = packed + parts * part_bytes;
    chunk = smaller(blocks, larger(1, budget / row_bytes)) * P::kHeadRows;
  }
  struct HeadSums {
    double sum = 0;       // of exp(logit - reference)
    float reference = 0;  // near the largest logit so far
    float largest = 0;
    float target = 0;  // the target's logit, where it is in this part
    bool has_target = false;
  };
  int64_t padded_hidden, parts, words, row_bytes, chunk;
};

template <typename P>
size_t frozen_head_workspace(const HeadLossShape& s) {
  // Fewer rows may be cut into more parts, and a step has any number up to this.
  int64_t bytes = 0;
  for (int64_t rows = 1; rows < s.labelled + P::kHeadRows; rows += P::kHeadRows) {
    const HeadCut<P> cut(smaller(rows, s.labelled), s.hidden, s.vocabulary, s.backward);
    bytes = larger(bytes, cut.row_bytes * cut.chunk);
  }
  return static_cast<size_t>(256 + bytes);
}

float largest_of(const float* logits, int64_t count) {
  F32 highest = splat(logits[0]);
  for_each_vector(count, [&](int64_t i, int64_t n) {
    if (n == kLanes) {
      highest = max(load(logits + i), highest);
    } else {
      for (int64_t j = 0; j < n; ++j) highest = max(splat(logits[i + j]), highest);
    }
  });
  return reduce_max(highest);
}

// Where a strip's logits stand: [column panel][row][P::kCols].
template <typename P>
struct StripLogits {
  float* data;
  int64_t panel_rows, count;  // count: words

  LOWRANK_INLINE float* at(int64_t row, int64_t word) const {
    return data + (word / P::kCols * panel_rows + row) * P::kCols + word % P::kCols;
  }
};

// Element (row, col) of a task's sums of exp times the weight's rows, which stand by tiles: [row
// panel][column panel][P::kRows][P::kCols]. Rows of a matrix as wide as this would share a few sets
// of the first cache.
template <typename P>
LOWRANK_INLINE int64_t sums_at(int64_t row, int64_t col, int64_t padded_hidden) {
  return row / P::kRows * P::kRows * padded_hidden + col / P::kCols * P::kRows * P::kCols +
         row % P::kRows * P::kCols + col % P::kCols;
}

// One row's logits of a strip as exp(logit - reference): their sum is kept up and, for a gradient,
// they become row `row` of left panels. Words beyond the strip count as -infinity.
template <typename P, typename Sums>
void exponentiate(const HeadLoss& op, int64_t index, int64_t first_word,
                  const StripLogits<P>& logits, int64_t row, Sums& sums, float* gradient,
                  int64_t padded_hidden, typename P::Packed* probabilities) {
  static_assert(P::kCols == 2 * kLanes);
  const int64_t count = logits.count, padded = padded_depth<P>(count);
  F32 high0 = splat(*logits.at(row, 0)), high1 = high0;
  for (int64_t word = 0; word < count; word += P::kCols) {
    float* at = logits.at(row, word);
    const int64_t n = smaller(P::kCols, count - word);
    if (op.bias)
      for (int64_t i = 0; i < n; ++i) at[i] += op.bias[first_word + word + i];
    for (int64_t i = n; i < P::kCols; ++i) at[i] = -__builtin_inff();
    high0 = max(load(at), high0);
    high1 = max(load(at + kLanes), high1);
  }
  const float largest = reduce_max(max(high0, high1));
  const int64_t target = op.targets[index] - first_word;
  if (target >= 0 && target < count) {
    sums.target = *logits.at(row, target);
    sums.has_target = true;
  }
  const bool first = sums.sum == 0;
  if (first || largest > sums.largest) sums.largest = largest;
  if (first) {
    sums.reference = largest;
  } else if (largest > sums.reference + kHeadSlack) {
    const F32 factor = exp(splat(sums.reference - largest));
    sums.sum *= static_cast<double>(factor[0]);
    if (gradient)
      for (int64_t i = 0; i < padded_hidden; i += kLanes) {
        float* at = gradient + sums_at<P>(row, i, padded_hidden);
        store(at, load(at) * factor);
      }
    sums.reference = largest;
  }
  const float reference = sums.reference;
  F32 sum0{}, sum1{};
  for (int64_t word = 0; word < count; word += P::kCols) {
    const float* at = logits.at(row, word);
    const F32 low = softmax_exp(load(at) - reference);
    const F32 high = softmax_exp(load(at + kLanes) - reference);
    sum0 += low;
    sum1 += high;
    if (gradient) P::put_left(probabilities, padded, row, word, low, high);
  }
  sums.sum += static_cast<double>(reduce_add(sum0 + sum1));
}

// Rows [first_row, first_row + rows) of the chunk against words [word, word_end): their sums, and
// the sums of exp times the weight's rows [rows, padded_hidden].
template <typename P>
void head_block(const HeadLoss& op, const HeadCut<P>& cut, const PackedLeft<P>& x, int64_t chunk,
                int64_t first_row, int64_t rows, int64_t word, int64_t word_end, void* scratch,
                typename HeadCut<P>::HeadSums* sums, float* gradient) {
  using Packed = typename P::Packed;
  const int64_t hidden = op.x.cols, panel_rows = round_up(rows, P::kRows);
  float* logits = static_cast<float*>(scratch);
  auto* probabilities = reinterpret_cast<Packed*>(logits + P::kHeadRows * kColBlock);
  Packed* right = probabilities + P::kHeadRows * kHeadStrip;
  Term<P> term;
  term.left = x;
  term.row_end = first_row + rows;
  for (int64_t i = 0; i < rows; ++i) sums[i] = {};
  if (gradient)
    for (int64_t i = 0; i < panel_rows * cut.padded_hidden; ++i) gradient[i] = 0;
  const Operand weight{source_of(op.weight), true};
  const int64_t step = depth_block(hidden, P::kDepthBlock);
  // The weight's part for one product of logits, if there is one.
  const auto upcoming_part = [&](int64_t at_word, int64_t k0) {
    Upcoming upcoming;
    if (at_word < word_end && k0 < hidden)
      upcoming.add(weight.source, at_word, smaller(kHeadStrip, word_end - at_word), k0,
                   smaller(step, hidden - k0));
    return upcoming;
  };
  for (; word < word_end; word += kHeadStrip) {
    const int64_t count = smaller(kHeadStrip, word_end - word);
    for (int64_t k0 = 0; k0 < hidden; k0 += step) {
      const Piece<P> piece{&term, k0, smaller(step, hidden - k0), right};
      P::pack_right(weight, word, count, k0, piece.depth, right);
      multiply_pieces<P>(&piece, 1, first_row, rows, 0, count, logits, k0 == 0, nullptr, false, 0,
                         upcoming_part(word, k0 + step));
    }
    const StripLogits<P> strip{logits, panel_rows, count};
    for (int64_t i = 0; i < rows; ++i)
      exponentiate(op, chunk + first_row + i, word, strip, i, sums[i], gradient, cut.padded_hidden,
                   probabilities);
    if (!gradient) continue;
    const int64_t padded = padded_depth<P>(count);
    Upcoming upcoming = upcoming_part(word + kHeadStrip, 0);
    const int64_t lines =
        upcoming.lines_per_tile(panel_rows / P::kRows * (cut.padded_hidden / P::kCols));
    typename P::Side side;
    for (int64_t h = 0; h < hidden; h += kColBlock) {
      const int64_t cols = smaller(kColBlock, hidden - h);
      P::pack_right({source_of(op.weight), false}, h, cols, word, count, right);
      for_each_tile<P>(rows, cols, [&](int64_t r, int64_t c) {
        const typename P::Factors factors{probabilities + r * padded, padded, right + c * padded,
                                          P::kCols, padded};
        float* to = gradient + sums_at<P>(r, h + c, cut.padded_hidden);
        if constexpr (!P::kStrips) {
          side.count = 0;
          upcoming.give(side, lines);
        }
        P::multiply(&factors, 1, rows - r, cols - c, to, P::kCols, to, P::kCols, side);
      });
    }
  }
}

// logprob, correct and the row of d_x from what the parts found.
template <typename P, typename T>
void finish_head_row(const HeadLoss& op, const HeadCut<P>& cut, int64_t index, int64_t row,
                     const typename HeadCut<P>::HeadSums* sums, const float* gradients) {
  const int64_t hidden = op.x.cols;
  float reference = sums[row].reference, largest = sums[row].largest, target = 0;
  for (int64_t p = 0; p < cut.parts; ++p) {
    const auto& part = sums[p * cut.chunk + row];
    // Written so that NaN, once met, stays.
    if (!(part.reference <= reference)) reference = part.reference;
    if (!(part.largest <= largest)) largest = part.largest;
    if (part.has_target) target = part.target;
  }
  double sum = 0;
  const auto factor_of = [&](int64_t p) {
    return static_cast<double>(exp(splat(sums[p * cut.chunk + row].reference - reference))[0]);
  };
  for (int64_t p = 0; p < cut.parts; ++p) sum += sums[p * cut.chunk + row].sum * factor_of(p);
  op.logprob[index] = target - reference - static_cast<float>(__builtin_log(sum));
  if (op.correct) op.correct[index] = target >= largest;
  if (!op.d_x.data) return;
  T* to = static_cast<T*>(op.d_x.data) + op.rows[index] * op.d_x.stride;
  const float weight = op.weights[index];
  constexpr int64_t kRunLength = 256;
  float run[kRunLength], word[kRunLength];
  for (int64_t h = 0; h < hidden; h += kRunLength) {
    const int64_t count = smaller(kRunLength, hidden - h);
    read_run(source_of(op.weight), op.targets[index], h, count, word);
    for (int64_t i = 0; i < count; ++i) run[i] = -weight * word[i];
    for (int64_t p = 0; p < cut.parts; ++p) {
      const float scale = static_cast<float>(static_cast<double>(weight) * factor_of(p) / sum);
      const float* part = gradients + p * cut.chunk * cut.padded_hidden;
      for_each_vector(count, [&](int64_t i, int64_t n) {
        const float* from = part + sums_at<P>(row, h + i, cut.padded_hidden);
        store_n(run + i, fma(load_n(from, n), splat(scale), load_n(run + i, n)), n);
      });
    }
    for_each_vector(count,
                    [&](int64_t i, int64_t n) { store_n(to + h + i, load_n(run + i, n), n); });
  }
}

template <typename P>
void frozen_head_loss(CpuDevice& device, const HeadLoss& op) {
  using Sums = typename HeadCut<P>::HeadSums;
  const int64_t hidden = op.x.cols, vocabulary = op.weight.rows;
  const bool backward = op.d_x.data;
  const HeadCut<P> cut(op.count, hidden, vocabulary, backward);
  Workspace workspace{static_cast<char*>(op.workspace)};
  void* packed_x = workspace.take(packed_left_bytes<P>(cut.chunk, hidden));
  auto* sums = static_cast<Sums*>(
      workspace.take(cut.parts * cut.chunk * static_cast<int64_t>(sizeof(Sums))));
  float* gradients = reinterpret_cast<float*>(workspace.at);
  for (int64_t first = 0; first < op.count; first += cut.chunk) {
    const int64_t rows = smaller(cut.chunk, op.count - first);
    Source source = source_of(op.x);
    source.rows = op.rows + first;
    const PackedLeft<P> x = pack_left<P>(device, {source, false}, 0, rows, hidden, packed_x);
    const int64_t blocks = (rows + P::kHeadRows - 1) / P::kHeadRows;
    device.pool.parallel_for(blocks * cut.parts, [&](int64_t task, int worker) {
      const typename P::Scope scope;
      (void)scope;
      const int64_t part = task / blocks, row = task % blocks * P::kHeadRows;
      const int64_t at = part * cut.chunk + row;
      head_block<P>(op, cut, x, first, row, smaller(P::kHeadRows, rows - row), part * cut.words,
                    smaller((part + 1) * cut.words, vocabulary), device.thread_scratch(worker),
                    sums + at, backward ? gradients + at * cut.padded_hidden : nullptr);
    });
    device.pool.parallel_for(rows, [&](int64_t row, int) {
      if (op.d_x.dtype == DType::kBF16)
        finish_head_row<P, BF16>(op, cut, first + row, row, sums, gradients);
      else
        finish_head_row<P, float>(op, cut, first + row, row, sums, gradients);
    });
  }
}

template <typename P>
constexpr bool head_fits_scratch() {
  return P::kHeadRows * kColBlock * 4 + (P::kHeadRows * kHeadStrip + kColBlock * P::kDepthBlock) *
                                            static_cast<int64_t>(sizeof(typename P::Packed)) <=
         static_cast<int64_t>(kThreadScratchBytes);
}
static_assert(head_fits_scratch<Products>(), "raise kThreadScratchBytes");
static_assert(kHeadStrip <= kColBlock, "a strip's logits are rows of a task's sums");
