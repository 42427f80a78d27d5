// The steps in which panels of queries pass over their keys, and the softmax of one.

constexpr int64_t kStepKeys = 128;
constexpr int64_t kBlockKeys = 8 * kStepKeys;  // that all panels pass over in the second cache

// What lanes see, as keys of their document: lane i sees [low, high). Vectors of lanes have the
// extremes of their lanes, so that whole panels are skipped and most masks left out.
struct LaneRanges {
  float* low;
  float* high;
  struct Extremes {
    int64_t lowest, last_low, first_high, highest;
  };
  Extremes vectors[kMaxLanes / kLanes];

  // Lanes [lane, lane + kLanes) see what `count` queries from `query` on see; the others nothing.
  void set(int64_t lane, const Document& document, int64_t query, int64_t count) {
    Extremes all{INT32_MAX, 0, 0, 0};
    for (int64_t i = 0; i < kLanes; ++i) {
      const Visible seen = i < count ? document.visible(query + i) : Visible{0, 0};
      low[lane + i] = static_cast<float>(seen.low);
      high[lane + i] = static_cast<float>(seen.high);
      if (i >= count) continue;
      if (i == 0) all.lowest = seen.low;
      all.last_low = seen.low;
      all.highest = seen.high;
    }
    if (count >= kLanes) all.first_high = static_cast<int64_t>(high[lane]);
    if (count <= 0) all.first_high = INT32_MAX;  // nothing is made of these lanes
    vectors[lane / kLanes] = all;
  }
  // The keys that any lane of a panel sees.
  Visible panel(int64_t index) const {
    const Extremes &a = vectors[2 * index], &b = vectors[2 * index + 1];
    return {smaller(a.lowest, b.lowest), larger(a.highest, b.highest)};
  }
  // Whether some lane of a panel doesn't see all the keys [begin, end).
  bool edge(int64_t index, int64_t begin, int64_t end) const {
    const Extremes &a = vectors[2 * index], &b = vectors[2 * index + 1];
    return larger(a.last_low, b.last_low) > begin || smaller(a.first_high, b.first_high) < end;
  }
};

// Whole panels of keys around what a panel of lanes sees of [begin, end); empty where low >= high.
inline Visible visible_panels(const Visible& seen, int64_t begin, int64_t end) {
  return {larger(begin, seen.low / kPanel * kPanel), smaller(end, round_up(seen.high, kPanel))};
}

// One panel of queries and the keys (whole panels, kStepKeys at most) that it sees some of.
struct KeyStep {
  int64_t panel = 0;
  Visible keys{0, 0};
  bool first = false, last = false;  // of its panel
  bool masked = false;               // some query doesn't see all of the keys
  bool rescaled = false;             // TileForwardScratch::change isn't 1 everywhere
  int64_t panels() const { return (keys.high - keys.low) / kPanel; }
};

// All steps of a block of queries: its panels over kBlockKeys keys, then over the next ones.
struct KeySteps {
  const LaneRanges& lanes;
  int64_t panels, begin, end;  // whole panels of keys
  int64_t panel = 0, key = begin;

  // Without a step left, its keys are none.
  KeyStep next() {
    for (; begin < end; begin += kBlockKeys, panel = 0, key = begin) {
      const int64_t block_end = smaller(begin + kBlockKeys, end);
      for (; panel < panels; ++panel, key = begin) {
        while (key < block_end) {
          const KeyStep step = step_at(smaller(key + kStepKeys, block_end));
          key += kStepKeys;
          if (step.panels() > 0) return step;
        }
      }
    }
    return {};
  }

 private:
  KeyStep step_at(int64_t key_end) const {
    KeyStep step;
    const Visible seen = lanes.panel(panel), keys = visible_panels(seen, key, key_end);
    if (keys.low >= keys.high) return step;
    step.panel = panel;
    step.keys = keys;
    step.first = keys.low <= seen.low;
    step.last = keys.high >= seen.high;
    step.masked = lanes.edge(panel, keys.low, keys.high);
    return step;
  }
};

struct TileForwardScratch {
  uint16_t* q;       // left panels, [lanes / kPanel][dim]
  uint16_t* p[2];    // left panels, [kStepKeys]; of two steps in turn
  float* scores[2];  // [kPanel][kStepKeys]
  float* out;        // [lanes][padded dim], the sums of P V
  float* sum;        // [lanes][kLanes], of every kLanes-th key together
  float* max;        // [lanes], what is subtracted from the scores times log2(e)
  float* change;     // [lanes], the factors of what was summed before a step
  LaneRanges lanes;
};

inline TileForwardScratch tile_forward_scratch(float* memory, int64_t head_dim) {
  const int64_t dim = padded_dim(head_dim);
  TileForwardScratch s;
  const auto take = [&](int64_t count) {
    float* part = memory;
    memory += count;
    return part;
  };
  s.q = reinterpret_cast<uint16_t*>(take(kMaxLanes * dim / 2));
  for (uint16_t*& p : s.p) p = reinterpret_cast<uint16_t*>(take(kStepKeys * kPanel / 2));
  for (float*& scores : s.scores) scores = take(kPanel * kStepKeys);
  s.out = take(kMaxLanes * dim);
  s.sum = take(kMaxLanes * kLanes);
  for (float** part : {&s.max, &s.change, &s.lanes.low, &s.lanes.high}) *part = take(kMaxLanes);
  return s;
}

// What is subtracted from a query's scores needn't be their largest: weights and their sums are as
// exact at 2^8 or 2^-64 as at 1. So a panel subtracts one number in its first step, and a query
// another one only where its scores are further from it; what was summed is then scaled, which is
// rare.
constexpr float kMostAbove = 8, kMostBelow = 64;

// The softmax of a step: scores become P, some rows at a time.
struct StepSoftmax {
  const TileForwardScratch& s;
  KeyStep& step;
  const float* scores;
  uint16_t* p;
  float factor;  // the scale times log2(e)

  // The largest score of a panel in its first step, of keys that are masked too.
  void begin_panel() const {
    F32 largest[2] = {splat(kMasked), splat(kMasked)};
    for (int64_t r = 0; r < kPanel; ++r)
      for (int64_t j = 0; j < step.keys.high - step.keys.low; j += kPanel)
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v)
          largest[v] = max(load(scores + r * kStepKeys + j + v * kLanes), largest[v]);
    const F32 most = splat(reduce_max(max(largest[0], largest[1])) * factor);
    for (int64_t i = 0; i < kPanel; i += kLanes) store(s.max + step.panel * kPanel + i, most);
  }

  // A function of its own: it is called between tile instructions in many places.
  __attribute__((noinline)) void rows(int64_t begin, int64_t end) const {
    if (!step.masked && step.panels() == kStepKeys / kPanel)
      return rows_of<kStepKeys / kPanel, false>(begin, end);
    static_assert(kStepKeys == 4 * kPanel);
    switch (step.panels()) {
      case 4:
        return rows_of<4, true>(begin, end);
      case 3:
        return rows_of<3, true>(begin, end);
      case 2:
        return rows_of<2, true>(begin, end);
      default:
        return rows_of<1, true>(begin, end);
    }
  }

 private:
  template <int kPanels, bool kMasks>
  LOWRANK_INLINE void rows_of(int64_t begin, int64_t end) const {
    constexpr int kVectors = 2 * kPanels;
    const int64_t first = step.panel * kPanel;
    const F32 scale = splat(factor);
    for (int64_t r = begin; r < end; ++r) {
      const float* from = scores + r * kStepKeys;
      uint16_t* to = p + r / 16 * kTile + r % 16 * 32;
      float *subtracted = s.max + first + r, *sums = s.sum + (first + r) * kLanes;
      __mmask16 seen[kVectors];
      if constexpr (kMasks) see_keys(first + r, kPanels, seen);
      F32 largest[2] = {splat(kMasked), splat(kMasked)};
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        const __m512 score = (__m512)load(from + v * kLanes), most = (__m512)largest[v % 2];
        largest[v % 2] = kMasks ? (F32)_mm512_mask_max_ps(most, seen[v], score, most)
                                : max((F32)score, largest[v % 2]);
      }
      const F32 most = max(largest[0], largest[1]) * scale;
      if (any_above(most, *subtracted + kMostAbove) ||
          (step.first && !any_above(most, *subtracted - kMostBelow)))
        subtract(first + r, reduce_max(most));
      const F32 negated = splat(-*subtracted);
      F32 sum = load(sums);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; v += 2) {
        F32 weight[2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const F32 x = fma(load(from + (v + i) * kLanes), scale, negated);
          weight[i] = exp2_where(kMasks ? seen[v + i] : __mmask16{0xffff}, x);
          sum += weight[i];
        }
        _mm512_store_si512(to + v / 2 * kStep, round_two(weight[0], weight[1]));
      }
      store(sums, sum);
    }
  }

  // The bits of the keys that a lane sees, by vectors.
  LOWRANK_INLINE void see_keys(int64_t lane, int panels, __mmask16* seen) const {
    const auto below = [](int64_t n) {
      return _bzhi_u32(~uint32_t{0}, static_cast<uint32_t>(smaller(larger(n, 0), kPanel)));
    };
    const int64_t low = static_cast<int64_t>(s.lanes.low[lane]) - step.keys.low;
    const int64_t high = static_cast<int64_t>(s.lanes.high[lane]) - step.keys.low;
#pragma GCC unroll 4
    for (int i = 0; i < panels; ++i) {
      const uint32_t keys = below(high - i * kPanel) & ~below(low - i * kPanel);
      seen[2 * i] = static_cast<__mmask16>(keys);
      seen[2 * i + 1] = static_cast<__mmask16>(keys >> 16);
    }
  }

  LOWRANK_INLINE static bool any_above(F32 x, float limit) {
    return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
  }

  // From here on `value` is subtracted from a query's scores.
  LOWRANK_INLINE void subtract(int64_t lane, float value) const {
    const float change = exp2(min(splat(s.max[lane] - value), F32{}))[0];
    float* sum = s.sum + lane * kLanes;
    store(sum, load(sum) * change);
    s.max[lane] = value;
    s.change[lane] = change;
    step.rescaled = true;
  }
};
