// Where a product's sums go, and what is done with them on the way.

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

  // Whether sums become rows of this type with one addend at most: in f32 those that begin with
  // begin_at() can be stored in the output as they are.
  bool is_plain(DType type) const {
    return dtype == type && col_stride == 1 && !bias && !rows && !mask && !(residual && accumulate);
  }
  LOWRANK_INLINE float* out_at(int64_t row, int64_t col) const {
    return static_cast<float*>(out) + row * row_stride + col;
  }
  LOWRANK_INLINE const float* begin_at(int64_t row, int64_t col, int64_t* stride) const {
    *stride = residual ? residual->stride : row_stride;
    if (residual) return static_cast<const float*>(residual->data) + row * *stride + col;
    return accumulate ? out_at(row, col) : nullptr;
  }
  // Where the sums of some rows and columns will go; no rows if they are scattered.
  struct Runs {
    const char* at = nullptr;
    int64_t stride = 0, rows = 0, bytes = 0;
  };
  LOWRANK_INLINE Runs runs_at(int64_t row, int64_t col, int64_t count, int64_t columns) const {
    if (rows || col_stride != 1) return {};
    const int64_t size = dtype == DType::kBF16 ? 2 : 4;
    return {static_cast<const char*>(out) + (row * row_stride + col) * size, row_stride * size,
            count, columns * size};
  }
};

template <typename T>
LOWRANK_INLINE void finish_run(const Epilogue& e, int64_t row, int64_t col, int64_t count,
                               const float* sums) {
  T* out = static_cast<T*>(e.out) + row * e.row_stride + col;
  const T* residual = e.residual
                          ? static_cast<const T*>(e.residual->data) + row * e.residual->stride + col
                          : nullptr;
  const auto value_of = [&](int64_t i, int64_t n) {
    F32 value = load_n(sums + i, n);
    if (e.bias) value = value + load_n(e.bias + col + i, n);
    if (residual) value = value + load_n(residual + i, n);
    if (e.accumulate) value = value + load_n(out + i, n);
    return value;
  };
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes)
    store_two(out + i, value_of(i, kLanes), value_of(i + kLanes, kLanes));
  for_each_vector(count - i,
                  [&](int64_t j, int64_t n) { store_n(out + i + j, value_of(i + j, n), n); });
}

// Sums [rows, cols] of output (row, col). kCols constant: a whole tile, its vectors unrolled.
template <int64_t kCols>
void finish_tile(const Epilogue& e, int64_t row, int64_t col, int64_t rows, int64_t cols,
                 float* sums, int64_t stride) {
  const int64_t count = kCols > 0 ? kCols : cols;
  for (int64_t i = 0; i < rows; ++i, sums += stride) {
    const int64_t to = e.rows ? e.rows[row + i] : row + i;
    if (e.mask) apply_dropout(*e.mask, to, col, count, sums);
    if (e.col_stride != 1) {
      float* out = static_cast<float*>(e.out) + to * e.row_stride + col * e.col_stride;
      for (int64_t j = 0; j < count; ++j)
        out[j * e.col_stride] = e.accumulate ? out[j * e.col_stride] + sums[j] : sums[j];
    } else if (e.dtype == DType::kBF16) {
      finish_run<BF16>(e, to, col, count, sums);
    } else {
      finish_run<float>(e, to, col, count, sums);
    }
  }
}

// Sums [rows, cols] of a tile, [rows][P::kCols], of output (row, col).
template <typename P>
LOWRANK_INLINE void finish_tile_of(const Epilogue& e, int64_t row, int64_t col, int64_t rows,
                                   int64_t cols, float* sums) {
  if (cols == P::kCols)
    finish_tile<P::kCols>(e, row, col, rows, cols, sums, P::kCols);
  else
    finish_tile<0>(e, row, col, rows, cols, sums, P::kCols);
}

// The tiles of a product: while one is computed the sums of the one before go to the output, and
// the lines that its own will go to are asked for.
template <typename P>
struct Meanwhile {
  const Epilogue* epilogue = nullptr;
  int64_t row = 0, col = 0, rows = 0, cols = 0;
  float* sums = nullptr;  // [rows][P::kCols]
  Steps steps;

  // Tiles of so many steps follow.
  void begin(const Epilogue* given, int64_t tile_steps) {
    epilogue = given;
    steps.parts = larger(1, (P::kRows / Steps::kRows + tile_steps - 1) / larger(1, tile_steps));
  }

  // The sums that wait go to the output, and these wait: [count, columns] at (to_row, to_col).
  LOWRANK_INLINE void next(int64_t to_row, int64_t to_col, int64_t count, int64_t columns,
                           float* from) {
    finish();
    const Epilogue& e = *epilogue;
    if (!is_plain_tile(count, columns)) {
      row = to_row, col = to_col, rows = count, cols = columns, sums = from;
      return;
    }
    steps.sums = from;
    steps.sums_end = from + count * P::kCols;
    steps.to = static_cast<BF16*>(e.out) + to_row * e.row_stride + to_col;
    steps.to_stride = e.row_stride;
    steps.addend = e.accumulate ? steps.to : nullptr;
    steps.addend_stride = e.row_stride;
    if (!e.residual) return;
    steps.addend_stride = e.residual->stride;
    steps.addend =
        static_cast<const BF16*>(e.residual->data) + to_row * steps.addend_stride + to_col;
  }
  LOWRANK_INLINE void finish() {
    while (steps.sums != steps.sums_end) steps.finish();
    if (rows > 0) finish_tile_of<P>(*epilogue, row, col, rows, cols, sums);
    rows = 0;
  }

  // Asks for runs of memory from the next step on.
  void ask_for(const void* from, int64_t bytes, int64_t stride, int64_t runs) {
    steps.line = static_cast<const char*>(from);
    steps.run_bytes = round_up(bytes, Steps::kLines * 64);
    steps.run_end = steps.line + steps.run_bytes;
    steps.run_stride = stride;
    steps.runs_left = runs - 1;
  }
  // And for the lines that a tile will go to.
  LOWRANK_INLINE void ask_for(int64_t to_row, int64_t to_col, int64_t count, int64_t columns) {
    steps.out = steps.out_end = nullptr;
    if (!is_plain_tile(count, columns)) return;
    const Epilogue& e = *epilogue;
    steps.out = static_cast<const BF16*>(e.out) + to_row * e.row_stride + to_col;
    steps.out_end = steps.out + count * e.row_stride;
  }

 private:
  LOWRANK_INLINE bool is_plain_tile(int64_t count, int64_t columns) const {
    return columns == P::kCols && count % Steps::kRows == 0 && epilogue->is_plain(DType::kBF16);
  }
};
