// Panels of bf16 in pairs of successive k, as tiles and vector units multiply them. A tile holds 16
// rows of 64 bytes: a left one 16 rows x 32 k, a right one 16 pairs of k x 16 columns, each pair
// together ("VNNI"). Right panels are 32 columns wide; a step is 32 k of one.

constexpr int64_t kPanel = 32;
constexpr int64_t kTile = 512;        // elements of a tile
constexpr int64_t kStep = 2 * kTile;  // two tiles: 32 rows (or columns) x 32 k

// 16 x 16 pairs turned round: rows[j] holds 16 pairs of k of column j. The first kCount rows of the
// result are stored, `stride` elements apart.
template <int kCount = 16>
LOWRANK_INLINE void transpose_pairs(const __m512i* rows, uint16_t* to, int64_t stride = 32) {
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
    _mm512_store_si512(to + i * stride, _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88));
    if (i + 8 < kCount)
      _mm512_store_si512(to + (i + 8) * stride, _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd));
  }
}

LOWRANK_INLINE __m512i pair_index(int first) {
  alignas(64) uint16_t index[32];
  for (int i = 0; i < 16; ++i) {
    index[2 * i] = static_cast<uint16_t>(first + i);
    index[2 * i + 1] = static_cast<uint16_t>(first + i + 32);
  }
  return _mm512_load_si512(index);
}

// The pairs (even[i], odd[i]) for i of the half 0 or 1.
LOWRANK_INLINE __m512i pairs_of(__m512i even, __m512i odd, int half) {
  return _mm512_permutex2var_epi16(even, pair_index(16 * half), odd);
}

// The pairs (lane i of the low half, lane i of the high half).
LOWRANK_INLINE __m512i pairs_of_halves(__m512i halves) {
  const __m512i index = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(index, halves);
}
