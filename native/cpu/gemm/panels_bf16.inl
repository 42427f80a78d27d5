// The product of bf16 panels (pairs.inl) on the vector units, for attention.

struct TileScope {};  // nothing to configure

// Rows [row, row + 8) of a left panel's tile times the right panel; to c [8, 32].
template <bool kBegin>
LOWRANK_INLINE void multiply_eight_rows(const uint16_t* left, const uint16_t* right, int64_t depth,
                                        float* c, int64_t stride) {
  using Word = BF16Unit::Word;
  F32 sums[8][2];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) sums[i][v] = kBegin ? F32{} : load(c + i * stride + v * kLanes);
  for (; depth > 0; depth -= 32, left += kStep, right += kStep) {
    const Word* a = reinterpret_cast<const Word*>(left);
    const Word* b = reinterpret_cast<const Word*>(right);
#pragma GCC unroll 16
    for (int pair = 0; pair < 16; ++pair) {
      const U32 low = BF16Unit::at(b + pair * 16), high = BF16Unit::at(b + pair * 16 + kTile / 2);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const U32 both = BF16Unit::everywhere(a + i * 16 + pair);
        sums[i][0] = BF16Unit::add(sums[i][0], both, low);
        sums[i][1] = BF16Unit::add(sums[i][1], both, high);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) store(c + i * stride + v * kLanes, sums[i][v]);
}

// c [32, 32] += left panel x right panel, or begins as it.
inline void multiply_panels(const uint16_t* left, const uint16_t* right, int64_t depth, float* c,
                            int64_t stride, bool begin) {
  for (int64_t row = 0; row < kPanel; row += 8) {
    const uint16_t* rows = left + row / 16 * kTile + row % 16 * 32;
    begin ? multiply_eight_rows<true>(rows, right, depth, c + row * stride, stride)
          : multiply_eight_rows<false>(rows, right, depth, c + row * stride, stride);
  }
}

// Nothing else runs while these multiply: beside() is done once, behind the product.
constexpr int64_t places_beside(int64_t) { return 1; }
template <typename Beside>
LOWRANK_INLINE void multiply_panels(const uint16_t* left, const uint16_t* right, int64_t depth,
                                    float* c, int64_t stride, bool begin, Beside&& beside) {
  multiply_panels(left, right, depth, c, stride, begin);
  beside();
}
