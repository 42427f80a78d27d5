// The operands of a product with a handful of rows (few_rows.inl): x, taken apart as the weight's
// storage is, and how the weight's memory is asked for.

constexpr int64_t kFewRows = 8;
constexpr int64_t kFewRowsStrip = 32;  // outputs of one task

// The rows of x a weight is multiplied with. `split` is x in the order in which the weight's
// storage is taken apart (split_x), `stride` elements a row.
struct FewRows {
  const float* x = nullptr;  // [rows, depth]
  const SplitUnit::X* split = nullptr;
  int64_t rows = 0;
  int64_t depth = 0;
  int64_t stride = 0;
  bool asks_second_cache = false;
};

// Each task reads its rows of the weight from the first byte to the last, with the memory asked for
// ahead: left alone, the prefetcher stays behind a loop that computes.
LOWRANK_INLINE bool asks_second_cache(const FewRows& rows) {
  return SplitUnit::kFeelsCaches && rows.asks_second_cache;
}
LOWRANK_INLINE int64_t ahead_bytes(const FewRows& rows) {
  return asks_second_cache(rows) ? 8192 : 4096;
}
LOWRANK_INLINE void ask_ahead_of(const FewRows& rows, const void* at) {
  ask_for(static_cast<const char*>(at) + ahead_bytes(rows), asks_second_cache(rows));
}

LOWRANK_INLINE bool is_plain(const Source& weight) { return !weight.rows && is_unchanged(weight); }
LOWRANK_INLINE bool has_whole_blocks(const Source& weight, int64_t depth) {
  return weight.element == Element::kNF4 && depth % kNf4Block == 0;
}

// Elements of one row of `split`; 0: the weight is read element by element.
LOWRANK_INLINE int64_t split_stride(const Source& weight, int64_t depth) {
  if (!is_plain(weight)) return 0;
  if (weight.element == Element::kBF16) return round_up(depth, kPairRun);
  return has_whole_blocks(weight, depth) ? round_up(depth, kCodeRun) : 0;
}

template <int... kLane>
LOWRANK_INLINE F32 even_places(F32 a, F32 b, LaneList<kLane...>) {
  return __builtin_shufflevector(a, b, 2 * kLane...);
}
template <int... kLane>
LOWRANK_INLINE F32 odd_places(F32 a, F32 b, LaneList<kLane...>) {
  return __builtin_shufflevector(a, b, (2 * kLane + 1)...);
}

// What stands at even places, then what stands at odd ones.
template <int kCount>
LOWRANK_INLINE void unshuffle(F32 (&values)[kCount]) {
  F32 odd[kCount / 2];
#pragma GCC unroll 4
  for (int i = 0; i < kCount / 2; ++i) {
    const F32 a = values[2 * i], b = values[2 * i + 1];
    values[i] = even_places(a, b, AllLanes{});
    odd[i] = odd_places(a, b, AllLanes{});
  }
  for (int i = 0; i < kCount / 2; ++i) values[kCount / 2 + i] = odd[i];
}

// A run's vectors: vector n holds what stands n elements behind the first of each lane. kSwapped:
// of two elements the second comes first, as codes stand in a byte.
template <int kVectors, bool kSwapped>
void split_x(const float* x, int64_t depth, SplitUnit::X* to) {
  constexpr int kSplit = kVectors * SplitUnit::kVector, kParts = SplitUnit::kVector / kLanes;
  for (int64_t i = 0; i < depth; i += kSplit, to += kSplit) {
    float rest[kSplit];
    const float* from = x + i;
    if (depth - i < kSplit) {
      for (int j = 0; j < kSplit; ++j) rest[j] = j < depth - i ? from[j] : 0;
      from = rest;
    }
    F32 run[kVectors * kParts];
#pragma GCC unroll 8
    for (int j = 0; j < kVectors * kParts; ++j) run[j] = load(from + j * kLanes);
#pragma GCC unroll 3
    for (int apart = 1; apart < kVectors; apart *= 2) unshuffle(run);
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n)
      SplitUnit::put(to + n * SplitUnit::kVector, run + (kSwapped ? n ^ 1 : n) * kParts);
  }
}
