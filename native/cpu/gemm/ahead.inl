// Asking for memory ahead of its use. Left alone, a product waits for operands and outputs that
// come from beyond the second cache: the processor foresees runs of addresses, not the next
// block's.

// Lines that a product asks for one by one between its steps. Asked for together they would take
// all the slots that a processor has for lines on their way, and the product's own loads would
// wait.
struct Ahead {
  static constexpr int64_t kLines = 96;
  const char* lines[kLines];  // from `count` on: lines that were asked for before
  int64_t count = 0;

  Ahead() {
    for (const char*& line : lines) line = reinterpret_cast<const char*>(this);
  }
  LOWRANK_INLINE void add(const char* at, int64_t stride, int64_t run) {
    for (int64_t end = smaller(kLines, count + run); count < end; ++count, at += stride)
      lines[count] = at;
  }
};

// Parts of matrices that the next block of a product reads, asked for over the tiles of this one.
class Upcoming {
 public:
  // Columns [col, col + cols) of `rows` rows of a source.
  void add(const Source& source, int64_t row, int64_t rows, int64_t col, int64_t cols) {
    if (source.rows) return;
    const auto bytes_of = [&](int64_t elements) {
      if (source.element == Element::kNF4) return elements / 2;
      if (source.element == Element::kInt8) return elements;
      return elements * (source.element == Element::kF32 ? 4 : 2);
    };
    add(static_cast<const char*>(source.data) + bytes_of(row * source.stride + col),
        bytes_of(source.stride), rows, bytes_of(cols));
  }
  void add(const char* at, int64_t stride, int64_t rows, int64_t bytes) {
    if (count_ == kParts || rows <= 0 || bytes <= 0) return;
    parts_[count_++] = {at, stride, rows, (bytes + 63) / 64};
    lines_ += rows * ((bytes + 63) / 64);
  }

  // So many lines for each of `tiles` tiles ask for everything.
  int64_t lines_per_tile(int64_t tiles) const { return (lines_ + tiles - 1) / tiles; }

  // Moves `lines` lines to `ahead`.
  LOWRANK_INLINE void give(Ahead& ahead, int64_t lines) {
    while (lines > 0 && part_ < count_) {
      const Part& part = parts_[part_];
      const int64_t n = smaller(lines, part.row_lines - line_);
      ahead.add(part.at + row_ * part.stride + line_ * 64, 64, n);
      lines -= n;
      line_ += n;
      if (line_ < part.row_lines) continue;
      line_ = 0;
      if (++row_ == part.rows) row_ = 0, ++part_;
    }
  }

 private:
  struct Part {
    const char* at;
    int64_t stride, rows, row_lines;
  };
  static constexpr int kParts = 2;
  Part parts_[kParts];
  int count_ = 0, part_ = 0;
  int64_t lines_ = 0, row_ = 0, line_ = 0;
};

// What goes on between the steps of tile products, whose units leave the others idle: lines that
// are needed soon are asked for, few at once, because the processor keeps track of few, and the
// tile before goes to the output as bf16. A product works on a copy, which the compiler can keep in
// registers. Few instructions and no branches that are hard to predict: the processor has to stay
// ahead of the tiles.
struct Steps {
  static constexpr int64_t kRows = 2, kLines = 4;  // of a part of a step, of a step
  int64_t parts = 1;                               // of a step: more where tiles have few
  // Runs of memory, `run_stride` bytes apart, each a multiple of kLines lines.
  const char *line = nullptr, *run_end = nullptr;
  int64_t run_bytes = 0, run_stride = 0, runs_left = 0;  // after this one
  // Rows of the output that are asked for, `to_stride` elements apart.
  const BF16 *out = nullptr, *out_end = nullptr;
  // Sums [rows][2 kLanes], a multiple of kRows, that become rows of the output, plus the addend's
  // (null: none).
  const float *sums = nullptr, *sums_end = nullptr;
  BF16* to = nullptr;
  int64_t to_stride = 0, addend_stride = 0;
  const BF16* addend = nullptr;

  LOWRANK_INLINE void operator()() {
    if (line != run_end) {
      for (int64_t i = 0; i < kLines; ++i) __builtin_prefetch(line + i * 64, 0, 2);
      line += kLines * 64;
      if (line == run_end && runs_left > 0) {
        --runs_left;
        run_end += run_stride;
        line = run_end - run_bytes;
      }
    }
    for (int64_t part = parts; part > 0; --part) {
      if (out != out_end) {
        for (int64_t i = 0; i < kRows; ++i) __builtin_prefetch(out + i * to_stride, 0, 2);
        out += kRows * to_stride;
      }
      if (sums != sums_end) finish();
    }
  }

  // kRows rows go to the output.
  LOWRANK_INLINE void finish() {
    for (int64_t i = 0; i < kRows; ++i, sums += 2 * kLanes, to += to_stride) {
      F32 low = load(sums), high = load(sums + kLanes);
      if (addend) {
        low = low + load(addend);
        high = high + load(addend + kLanes);
        addend += addend_stride;
      }
      store_two(to, low, high);
    }
  }
};
