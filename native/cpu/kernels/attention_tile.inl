// The parts that attention's passes share: packing of rows into f32 tiles, and one small product.
// Scores are kept transposed, [key][query]: then the softmax runs down the lanes without a
// horizontal step, and only the query side is ever transposed, once per task.

// A matrix operand whose elements are broadcast one by one.
struct Broadcast {
  const float* data;
  int64_t row_stride;
  int64_t depth_stride;
};

constexpr int kStripRows = 6;
// Vectors per strip: 6 x 4 sums and their operands fill 32 registers, 6 x 2 fill 16.
constexpr int kTileVectors = LOWRANK_VECTOR_BYTES == 32 ? 2 : 4;
constexpr int64_t kWidth = 64;     // queries per chunk, the row length of transposed tiles
constexpr int64_t kLaneStep = 16;  // chunks are filled in steps of this many queries
constexpr float kMasked = -1e30f;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Row length of packed tiles: a head, filled up to whole vectors, and one cache line more, so that
// rows don't fall into the same cache sets.
inline int64_t tile_stride(int64_t head_dim) { return (head_dim + 15) / 16 * 16 + 16; }

// C[r][n] (+)= sum over k of A(r, k) B[k][n] for kRows rows and kVectors vectors; depth > 0.
template <int kRows, int kVectors, bool kAccumulate>
inline void multiply_block(Broadcast a, const float* b, int64_t b_stride, float* c,
                           int64_t c_stride, int64_t depth) {
  F32 sum[kRows][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sum[r][v] = kAccumulate ? load(c + r * c_stride + v * kLanes) : F32{};
  do {  // gcc 12 spills every sum around a loop that may run zero times
    F32 row[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) row[v] = load(b + v * kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r) {
      const F32 factor = splat(a.data[r * a.row_stride]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = fma(factor, row[v], sum[r][v]);
    }
    a.data += a.depth_stride;
    b += b_stride;
  } while (--depth > 0);
#pragma GCC unroll 6
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(c + r * c_stride + v * kLanes, sum[r][v]);
}

template <int kRows, bool kAccumulate>
void multiply_rows(Broadcast a, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                   int64_t width, int64_t depth) {
  int64_t n = 0;
  for (; n + kTileVectors * kLanes <= width; n += kTileVectors * kLanes)
    multiply_block<kRows, kTileVectors, kAccumulate>(a, b + n, b_stride, c + n, c_stride, depth);
  for (; n < width; n += kLanes)
    multiply_block<kRows, 1, kAccumulate>(a, b + n, b_stride, c + n, c_stride, depth);
}

// The same for 1 to kStripRows rows; `width` counts whole vectors.
template <bool kAccumulate>
void multiply_strip(int64_t rows, Broadcast a, const float* b, int64_t b_stride, float* c,
                    int64_t c_stride, int64_t width, int64_t depth) {
  if (depth <= 0) return;
  switch (rows) {
    case 6:
      return multiply_rows<6, kAccumulate>(a, b, b_stride, c, c_stride, width, depth);
    case 5:
      return multiply_rows<5, kAccumulate>(a, b, b_stride, c, c_stride, width, depth);
    case 4:
      return multiply_rows<4, kAccumulate>(a, b, b_stride, c, c_stride, width, depth);
    case 3:
      return multiply_rows<3, kAccumulate>(a, b, b_stride, c, c_stride, width, depth);
    case 2:
      return multiply_rows<2, kAccumulate>(a, b, b_stride, c, c_stride, width, depth);
    default:
      return multiply_rows<1, kAccumulate>(a, b, b_stride, c, c_stride, width, depth);
  }
}

// One head of row `row` of an activation matrix, times `scale`, as f32; the tail of the last vector
// becomes zero.
template <typename X>
inline void pack_row(const X* from, int64_t head_dim, float scale, float* to) {
  const F32 factor = splat(scale);
  int64_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) store(to + i, load(from + i) * factor);
  for (; i < head_dim; ++i) to[i] = to_float(from[i]) * scale;
  for (; i % kLanes != 0; ++i) to[i] = 0;
}

template <typename X>
void pack_rows(const X* from, int64_t from_stride, int64_t rows, int64_t head_dim, float scale,
               float* to, int64_t to_stride) {
  for (int64_t r = 0; r < rows; ++r)
    pack_row(from + r * from_stride, head_dim, scale, to + r * to_stride);
}

// Rows of a head as f32.
struct HeadTile {
  const float* data;
  int64_t stride;
};

template <typename X>
inline X* row_of(const Matrix& matrix, int64_t row, int64_t column) {
  return static_cast<X*>(matrix.data) + row * matrix.stride + column;
}

// Rows [row, row + rows) of a head: where they stand, if whole vectors of f32 do and rows spread
// over the first cache's sets, or else packed into `memory`.
template <typename X>
HeadTile head_tile(const Matrix& matrix, int64_t row, int64_t column, int64_t rows,
                   int64_t head_dim, float* memory) {
  const X* from = row_of<const X>(matrix, row, column);
  if constexpr (sizeof(X) == sizeof(float))
    if (head_dim % kLanes == 0 && matrix.stride % 256 != 0) return {from, matrix.stride};
  pack_rows(from, matrix.stride, rows, head_dim, 1.0f, memory, tile_stride(head_dim));
  return {memory, tile_stride(head_dim)};
}

// Rows of a transposed tile [tile_rows][kWidth], filled up to whole vectors.
inline int64_t tile_rows(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// One step of transposing kLanes rows: blocks of kStep x kStep change places across the diagonal.
template <int kStep, int... kLane>
LOWRANK_INLINE void exchange(F32 (&rows)[kLanes], LaneList<kLane...>) {
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & kStep) continue;
    const F32 a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shufflevector(a, b, (kLane & kStep ? kLanes + kLane - kStep : kLane)...);
    rows[i + kStep] =
        __builtin_shufflevector(a, b, (kLane & kStep ? kLanes + kLane : kLane + kStep)...);
  }
}

// tile[i][lane] = rows[lane][i] for `lanes` lanes, a multiple of kLanes.
inline void transpose_rows(const float* rows, int64_t stride, int64_t lanes, int64_t head_dim,
                           float* tile, int64_t tile_stride = kWidth) {
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    for (int64_t i = 0; i < head_dim; i += kLanes) {
      F32 block[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) block[r] = load(rows + (lane + r) * stride + i);
      exchange<1>(block, AllLanes{});
      exchange<2>(block, AllLanes{});
#if LOWRANK_VECTOR_BYTES >= 32
      exchange<4>(block, AllLanes{});
#endif
#if LOWRANK_VECTOR_BYTES == 64
      exchange<8>(block, AllLanes{});
#endif
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) store(tile + (i + r) * tile_stride + lane, block[r]);
    }
  }
}

template <typename X>
inline void unpack_row(const float* from, int64_t head_dim, float scale, X* to) {
  const F32 factor = splat(scale);
  int64_t i = 0;
  for (; i + kLanes <= head_dim; i += kLanes) store(to + i, load(from + i) * factor);
  for (; i < head_dim; ++i) to[i] = from_float<X>(from[i] * scale);
}

// The keys [low, high) that a query sees, counted from its document's first key.
struct Visible {
  int64_t low, high;
};

struct Document {
  int64_t q_begin, queries, k_begin, keys, window;

  Document(const AttentionForward& op, int64_t index)
      : q_begin(op.q_offsets[index]),
        queries(op.q_offsets[index + 1] - q_begin),
        k_begin(op.k_offsets[index]),
        keys(op.k_offsets[index + 1] - k_begin),
        window(op.window) {}

  Visible visible(int64_t query) const {
    const int64_t high = query + keys - queries + 1;
    return {window > 0 ? larger(0, high - window) : 0, high};
  }
};
