// What the AMX tile instructions cost, without what they compute: for timing what stands around
// them on processors without AMX. Results are meaningless, times are a model (docs/performance.md).
//
//   TDPBF16PS   16 cycles of a unit of its own: a square root, 16 to 17 cycles of the divider
//   TILELOADDT1 16 lines, two a cycle
//   TILELOADD   the same, of a place that is always in the first cache: TILELOADDT1, unlike the
//   loads
//               here, doesn't push what is loaded again and again out of it
//   TILESTORED  16 lines, one a cycle
//
// The products' latency of 52 cycles isn't there. zmm26 to zmm31 are kept for this by the
// compiler's flags: the tiles' rows that arrived (26 to 29), the last sum (30), 1 (31).

struct TileScope {
  TileScope() {}
  ~TileScope() {}
};

constexpr double kTimedOne = 1;
#define LOWRANK_TILE_ONE() __asm__ volatile("vbroadcastsd %0, %%zmm31" ::"m"(kTimedOne))

template <int kRegister>
LOWRANK_INLINE void tile_load(const void* from, int64_t stride) {
  if constexpr (kRegister == 30) LOWRANK_TILE_ONE();
  const char* at = static_cast<const char*>(from);
  for (int i = 0; i < 4; ++i, at += 4 * stride)
    __asm__ volatile(
        "vmovups (%0), %%zmm%c3\n\tvmovups (%0,%1), %%zmm%c3\n\t"
        "vmovups (%0,%1,2), %%zmm%c3\n\tvmovups (%0,%2), %%zmm%c3"
        :
        : "r"(at), "r"(stride), "r"(3 * stride), "i"(kRegister)
        : "memory");
}
LOWRANK_INLINE void tile_store(void* to, int64_t stride) {
  char* at = static_cast<char*>(to);
  for (int i = 0; i < 4; ++i, at += 4 * stride)
    __asm__ volatile(
        "vmovups %%zmm30, (%0)\n\tvmovups %%zmm30, (%0,%1)\n\t"
        "vmovups %%zmm30, (%0,%1,2)\n\tvmovups %%zmm30, (%0,%2)"
        :
        : "r"(at), "r"(stride), "r"(3 * stride)
        : "memory");
}
template <int kLeft, int kRight>
LOWRANK_INLINE void tile_multiply() {
  // 0xf0 keeps the 1 and waits for both tiles.
  __asm__ volatile("vpternlogq $0xf0, %%zmm%c0, %%zmm%c1, %%zmm31\n\tvsqrtpd %%zmm31, %%zmm30"
                   :
                   : "i"(kLeft), "i"(kRight));
}

alignas(64) constexpr char kTimedPlace[1024] = {};

// Tiles 0 to 3 are sums, 4 to 7 stand in zmm26 to zmm29.
#define LOWRANK_TILE_ZERO(tile) LOWRANK_TILE_ONE()
#define LOWRANK_TILE_LOAD(tile, from, stride) \
  (tile < 4 ? tile_load<30>(from, stride) : tile_load<22 + tile>(kTimedPlace, 64))
#define LOWRANK_TILE_STREAM(tile, from, stride) tile_load<22 + tile>(from, stride)
#define LOWRANK_TILE_STORE(tile, to, stride) tile_store(to, stride)
#define LOWRANK_TILE_MULTIPLY(sum, left, right) tile_multiply<22 + left, 22 + right>()
