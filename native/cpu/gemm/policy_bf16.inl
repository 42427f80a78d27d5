// Products of any operands over bf16 panels (pack_bf16.inl) in vectors of pairs; sums are f32.

struct BF16Policy : BF16Packing<12, 64> {  // 24 of 32 registers accumulate
  using Side = Ahead;
  struct Scope {};
  static constexpr bool kStrips = false;
  static constexpr int kRowStep = 4;
  static constexpr int64_t kDepthStep = 2;
  static constexpr int64_t kRowBlock = 516;  // as F32Policy's
  static constexpr int64_t kPackRows = 48;
  static constexpr int64_t kPackCols = 16;
  static constexpr int64_t kTaskParts = 4;
  static constexpr int64_t kHeadRows = 192;

  // Elements become words of two.
  struct Factors : TileFactors<uint32_t> {
    Factors() = default;
    Factors(const uint16_t* left_at, int64_t stride, const uint16_t* right_at, int64_t,
            int64_t elements)
        : TileFactors<uint32_t>{reinterpret_cast<const uint32_t*>(left_at), stride / 2,
                                reinterpret_cast<const uint32_t*>(right_at), kCols, elements / 2} {}
  };

  // Whether the left operand needs no packing. Rows are read in steps of kRowStep.
  LOWRANK_INLINE static bool reads_left_in_place(const Operand& left, int64_t row_end,
                                                 int64_t depth) {
    return has_plain_rows(left) && row_end % kRowStep == 0 && depth % kDepthStep == 0 &&
           left.source.stride % 2 == 0 && left.source.stride * 2 % (2 * kSetBytes) != 0;
  }

  LOWRANK_INLINE static void multiply(const Factors* factors, int count, int64_t rows, int64_t cols,
                                      const float* from, int64_t from_stride, float* to,
                                      int64_t to_stride, const Ahead& ahead) {
    multiply_panel<BF16Unit, kRows, kRowStep>(factors, count, rows, cols, from, from_stride, to,
                                              to_stride, ahead);
  }
};
