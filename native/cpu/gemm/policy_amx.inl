// Products of any operands over bf16 panels (pack_bf16.inl) in AMX tiles; sums are f32.

struct AmxPolicy : BF16Packing<kPanel, 32> {
  using Scope = TileScope;  // every thread that multiplies configures its own tiles
  using Side = Steps;       // what a product does beside multiplying
  static constexpr bool kStrips = true;
  static constexpr int kRowStep = kRows;
  static constexpr int64_t kDepthStep = kStepDepth;
  static constexpr int64_t kRowBlock = 512;  // rows of a task at most: block and sums stay in L2
  static constexpr int64_t kPackRows = 96;   // packing an element takes the time of so many rows
  static constexpr int64_t kPackCols = 64;   // a strip's left rows cost so many columns more
  static constexpr int64_t kTaskParts = 2;   // a disturbance costs one of so many parts of a task
  static constexpr int64_t kHeadRows = 256;  // rows of a head task: a strip is packed for each

  // The left operand's rows, and right panels, whose stride goes unused.
  struct Factors {
    const uint16_t* left;
    int64_t left_stride;
    const uint16_t* right;
    int64_t right_stride;
    int64_t depth;
  };

  // Whether tiles can read the left operand's rows where they stand.
  LOWRANK_INLINE static bool reads_left_in_place(const Operand& left, int64_t row_end,
                                                 int64_t depth) {
    return has_plain_rows(left) && row_end % kRows == 0 && depth % kDepthUnit == 0 &&
           left.source.stride % 32 == 0 && left.source.stride * 2 % kSetBytes != 0 &&
           reinterpret_cast<uintptr_t>(left.source.data) % 64 == 0;
  }

  // As F32Policy::multiply, in whole tiles: what isn't needed of one is zero. Right panels pass by
  // while the left one stays in the first cache.
  static void multiply(const Factors* factors, int count, int64_t rows, int64_t cols,
                       const float* from, int64_t from_stride, float* to, int64_t to_stride,
                       Steps& side) {
    if (rows > 16)
      cols > 16 ? multiply_tiles<2, 2>(factors, count, from, from_stride, to, to_stride, side)
                : multiply_tiles<2, 1>(factors, count, from, from_stride, to, to_stride, side);
    else
      cols > 16 ? multiply_tiles<1, 2>(factors, count, from, from_stride, to, to_stride, side)
                : multiply_tiles<1, 1>(factors, count, from, from_stride, to, to_stride, side);
  }

  template <int kRowTiles, int kColTiles>
  LOWRANK_INLINE static void multiply_tiles(const Factors* factors, int count, const float* from,
                                            int64_t from_stride, float* to, int64_t to_stride,
                                            Steps& side) {
    using Product = TileProduct<kRowTiles, kColTiles>;
    Steps steps = side;
    Product::begin(from, from_stride);
    for (; count > 0; --count, ++factors)
      Product::template add<true>(left_rows(factors->left, factors->left_stride), factors->right,
                                  factors->depth, steps);
    Product::end(to, to_stride);
    side = steps;
  }
};
