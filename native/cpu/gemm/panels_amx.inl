// The product of bf16 panels in AMX tiles (Intel SDM vol. 1, chapter 18; pairs.inl). Panels are 32
// rows or columns wide, so that four tiles of sums use every loaded tile twice; the two tiles of a
// step of 32 k stand side by side. A left panel may also be rows of a matrix.

#define LOWRANK_TILE_PANEL(tile, from, stride, streamed) \
  do {                                                   \
    if constexpr (streamed)                              \
      LOWRANK_TILE_STREAM(tile, from, stride);           \
    else                                                 \
      LOWRANK_TILE_LOAD(tile, from, stride);             \
  } while (false)

// Where a left panel's tiles stand: rows `row_bytes` apart, the second tile `below` and the next
// step of depth `step` elements on.
struct LeftTiles {
  const uint16_t* at;
  int64_t row_bytes, below, step;
};
LOWRANK_INLINE LeftTiles left_panel(const uint16_t* panel) { return {panel, 64, kTile, kStep}; }
LOWRANK_INLINE LeftTiles left_rows(const uint16_t* rows, int64_t stride) {
  return {rows, stride * 2, 16 * stride, 32};
}

// Sums of up to 2 x 2 tiles in tiles 0 to 3. Without the second row or column of tiles, that part
// of the sums' memory isn't touched.
template <int kRowTiles, int kColTiles>
struct TileProduct {
  static constexpr bool kBelow = kRowTiles == 2, kBeside = kColTiles == 2;

  // The sums begin as `from` (null: 0), `stride` floats from row to row.
  LOWRANK_INLINE static void begin(const float* from, int64_t stride) {
    if (!from) {
      LOWRANK_TILE_ZERO(0);
      if constexpr (kBeside) LOWRANK_TILE_ZERO(1);
      if constexpr (kBelow) LOWRANK_TILE_ZERO(2);
      if constexpr (kBelow && kBeside) LOWRANK_TILE_ZERO(3);
      return;
    }
    const float* lower = from + 16 * stride;
    const int64_t bytes = stride * 4;
    LOWRANK_TILE_LOAD(0, from, bytes);
    if constexpr (kBeside) LOWRANK_TILE_LOAD(1, from + 16, bytes);
    if constexpr (kBelow) LOWRANK_TILE_LOAD(2, lower, bytes);
    if constexpr (kBelow && kBeside) LOWRANK_TILE_LOAD(3, lower + 16, bytes);
  }

  // Adds left x right panel over `depth` k, a multiple of 32. kStreamRight: right panels pass by
  // while the left one stays in the first cache, or the other way round. side() is done after every
  // step: vector units are idle while tiles multiply.
  template <bool kStreamRight, typename Side>
  LOWRANK_INLINE static void add(LeftTiles left, const uint16_t* right, int64_t depth,
                                 Side&& side) {
    for (int64_t k = 0; k < depth; k += 32, left.at += left.step, right += kStep) {
      LOWRANK_TILE_PANEL(4, left.at, left.row_bytes, !kStreamRight);
      LOWRANK_TILE_PANEL(6, right, 64, kStreamRight);
      if constexpr (kBeside) LOWRANK_TILE_PANEL(7, right + kTile, 64, kStreamRight);
      LOWRANK_TILE_MULTIPLY(0, 4, 6);
      if constexpr (kBelow)
        LOWRANK_TILE_PANEL(5, left.at + left.below, left.row_bytes, !kStreamRight);
      if constexpr (kBeside) LOWRANK_TILE_MULTIPLY(1, 4, 7);
      if constexpr (kBelow) LOWRANK_TILE_MULTIPLY(2, 5, 6);
      if constexpr (kBelow && kBeside) LOWRANK_TILE_MULTIPLY(3, 5, 7);
      side();
    }
  }

  LOWRANK_INLINE static void end(float* to, int64_t stride) {
    float* lower = to + 16 * stride;
    const int64_t bytes = stride * 4;
    LOWRANK_TILE_STORE(0, to, bytes);
    if constexpr (kBeside) LOWRANK_TILE_STORE(1, to + 16, bytes);
    if constexpr (kBelow) LOWRANK_TILE_STORE(2, lower, bytes);
    if constexpr (kBelow && kBeside) LOWRANK_TILE_STORE(3, lower + 16, bytes);
  }
};

// Where multiply_panels calls beside().
LOWRANK_INLINE int64_t places_beside(int64_t depth) { return depth / 32 * 4 + 4; }

// c [32, 32] += left panel x right panel, or begins as it. beside() is done between the tiles'
// instructions, in few of them at a time: vectors wait where many stand together.
template <typename Beside>
LOWRANK_INLINE void multiply_panels(const uint16_t* left, const uint16_t* right, int64_t depth,
                                    float* c, int64_t stride, bool begin, Beside&& beside) {
  TileProduct<2, 2>::begin(begin ? nullptr : c, stride);
  for (int64_t k = 0; k < depth; k += 32, left += kStep, right += kStep) {
    LOWRANK_TILE_LOAD(4, left, 64);
    LOWRANK_TILE_STREAM(6, right, 64);
    beside();
    LOWRANK_TILE_MULTIPLY(0, 4, 6);
    LOWRANK_TILE_STREAM(7, right + kTile, 64);
    beside();
    LOWRANK_TILE_MULTIPLY(1, 4, 7);
    LOWRANK_TILE_LOAD(5, left + kTile, 64);
    beside();
    LOWRANK_TILE_MULTIPLY(2, 5, 6);
    LOWRANK_TILE_MULTIPLY(3, 5, 7);
    beside();
  }
  float* lower = c + 16 * stride;
  LOWRANK_TILE_STORE(0, c, stride * 4);
  beside();
  LOWRANK_TILE_STORE(1, c + 16, stride * 4);
  beside();
  LOWRANK_TILE_STORE(2, lower, stride * 4);
  beside();
  LOWRANK_TILE_STORE(3, lower + 16, stride * 4);
  beside();
}

inline void multiply_panels(const uint16_t* left, const uint16_t* right, int64_t depth, float* c,
                            int64_t stride, bool begin) {
  using Product = TileProduct<2, 2>;
  Product::begin(begin ? nullptr : c, stride);
  Product::add<false>(left_panel(left), right, depth, [] {});
  Product::end(c, stride);
}
