// Panels of bf16 for the AMX tiles (Intel SDM vol. 1, chapter 18). A tile holds 16 rows of 64
// bytes. A left tile is 16 rows x 32 k; a right tile is 16 pairs of k x 16 columns, each pair
// together ("VNNI"). Panels are 32 rows or columns wide, so that four tiles of sums use every
// loaded tile twice; the two tiles of a step of 32 k stand side by side.

constexpr int64_t kPanel = 32;
constexpr int64_t kTile = 512;        // elements of a tile
constexpr int64_t kStep = 2 * kTile;  // two tiles: 32 rows (or columns) x 32 k

// 16 x 16 pairs turned round: rows[j] holds 16 pairs of k of column j.
LOWRANK_INLINE void transpose_pairs(const __m512i* rows, uint16_t* to) {
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 8; ++i) {
    a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    b[4 * i] = _mm512_unpacklo_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 1] = _mm512_unpackhi_epi64(a[4 * i], a[4 * i + 2]);
    b[4 * i + 2] = _mm512_unpacklo_epi64(a[4 * i + 1], a[4 * i + 3]);
    b[4 * i + 3] = _mm512_unpackhi_epi64(a[4 * i + 1], a[4 * i + 3]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 8; ++i) {
    _mm512_store_si512(to + i * 32, _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88));
    _mm512_store_si512(to + (i + 8) * 32, _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd));
  }
}

// to [32, 32] = from (null: 0) + left panel x right panel over `depth` k, a multiple of 32.
inline void multiply_panels(const uint16_t* left, const uint16_t* right, int64_t depth,
                            const float* from, int64_t from_stride, float* to, int64_t to_stride) {
  if (!from) {
    LOWRANK_TILE_ZERO(0);
    LOWRANK_TILE_ZERO(1);
    LOWRANK_TILE_ZERO(2);
    LOWRANK_TILE_ZERO(3);
  } else {
    const float* lower = from + 16 * from_stride;
    const int64_t bytes = from_stride * 4;
    LOWRANK_TILE_LOAD(0, from, bytes);
    LOWRANK_TILE_LOAD(1, from + 16, bytes);
    LOWRANK_TILE_LOAD(2, lower, bytes);
    LOWRANK_TILE_LOAD(3, lower + 16, bytes);
  }
  for (int64_t k = 0; k < depth; k += 32, left += kStep, right += kStep) {
    LOWRANK_TILE_LOAD(6, right, 64);
    LOWRANK_TILE_LOAD(4, left, 64);
    LOWRANK_TILE_LOAD(7, right + kTile, 64);
    LOWRANK_TILE_MULTIPLY(0, 4, 6);
    LOWRANK_TILE_LOAD(5, left + kTile, 64);
    LOWRANK_TILE_MULTIPLY(1, 4, 7);
    LOWRANK_TILE_MULTIPLY(2, 5, 6);
    LOWRANK_TILE_MULTIPLY(3, 5, 7);
  }
  float* lower = to + 16 * to_stride;
  const int64_t bytes = to_stride * 4;
  LOWRANK_TILE_STORE(0, to, bytes);
  LOWRANK_TILE_STORE(1, to + 16, bytes);
  LOWRANK_TILE_STORE(2, lower, bytes);
  LOWRANK_TILE_STORE(3, lower + 16, bytes);
}

// The same, added to or written over `c`.
inline void multiply_panels(const uint16_t* left, const uint16_t* right, int64_t depth, float* c,
                            int64_t stride, bool begin) {
  multiply_panels(left, right, depth, begin ? nullptr : c, stride, c, stride);
}
