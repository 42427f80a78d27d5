// A scalar model of the AMX tile instructions (Intel SDM vol. 2, TDPBF16PS and TILELOADD), for
// machines without them. It rounds the sums of a pair of products once each, as plain f32
// arithmetic; the hardware flushes subnormals, which the tests avoid.

struct Tiles {
  alignas(64) uint8_t bytes[8][16][64];
  bool configured;
};
thread_local Tiles tiles;

struct TileScope {
  // What was left in the tiles must not matter.
  TileScope() { set(true); }
  ~TileScope() { set(false); }
  static void set(bool configured) {
    __builtin_memset(tiles.bytes, 0xff, sizeof tiles.bytes);
    tiles.configured = configured;
  }
};

template <int kTile>
void tile_zero() {
  __builtin_memset(tiles.bytes[kTile], 0, sizeof tiles.bytes[kTile]);
}
template <int kTile>
void tile_load(const void* from, int64_t stride) {
  for (int row = 0; row < 16; ++row)
    __builtin_memcpy(tiles.bytes[kTile][row], static_cast<const char*>(from) + row * stride, 64);
}
template <int kTile>
void tile_store(void* to, int64_t stride) {
  // The hardware faults without a configuration; here NaN comes out.
  if (!tiles.configured) TileScope::set(false);
  for (int row = 0; row < 16; ++row)
    __builtin_memcpy(static_cast<char*>(to) + row * stride, tiles.bytes[kTile][row], 64);
}
template <int kSum, int kLeft, int kRight>
void tile_multiply() {
  for (int m = 0; m < 16; ++m) {
    BF16 left[32];
    float sums[16];
    __builtin_memcpy(left, tiles.bytes[kLeft][m], sizeof left);
    __builtin_memcpy(sums, tiles.bytes[kSum][m], sizeof sums);
    for (int pair = 0; pair < 16; ++pair) {
      BF16 right[32];
      __builtin_memcpy(right, tiles.bytes[kRight][pair], sizeof right);
      for (int n = 0; n < 16; ++n) {
        sums[n] += to_float(left[2 * pair]) * to_float(right[2 * n]);
        sums[n] += to_float(left[2 * pair + 1]) * to_float(right[2 * n + 1]);
      }
    }
    __builtin_memcpy(tiles.bytes[kSum][m], sums, sizeof sums);
  }
}

#define LOWRANK_TILE_ZERO(tile) tile_zero<tile>()
#define LOWRANK_TILE_LOAD(tile, from, stride) tile_load<tile>(from, stride)
#define LOWRANK_TILE_STREAM(tile, from, stride) tile_load<tile>(from, stride)
#define LOWRANK_TILE_STORE(tile, to, stride) tile_store<tile>(to, stride)
#define LOWRANK_TILE_MULTIPLY(sum, left, right) tile_multiply<sum, left, right>()
