// The AMX instructions, each behind a name of its own, so that a scalar model can stand in for them
// where a machine has none (test/native/cpu/tiles_emulated.inl). Tiles 0 to 3 sum, 4 and 5 are
// left, 6 and 7 right; every tile has 16 rows of 64 bytes.

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// Static storage: gcc 12 tells its optimiser that _tile_loadconfig reads only the first 8 bytes, so
// stores to a local configuration could be dropped.
constexpr TileConfig kTileConfig;

struct TileScope {
  TileScope() { _tile_loadconfig(&kTileConfig); }
  ~TileScope() { _tile_release(); }
};

// Macros because gcc writes the tile's number into the instruction's text. Strides are in bytes;
// MULTIPLY is sum[16, 16] += left[16, 32] x right[32, 16], the right one in pairs of k.
#define LOWRANK_TILE_ZERO(tile) _tile_zero(tile)
#define LOWRANK_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
// The same for data that is used once before its next turn: it takes no room in the first cache
// from what is used again and again.
#define LOWRANK_TILE_STREAM(tile, from, stride) _tile_stream_loadd(tile, from, stride)
#define LOWRANK_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define LOWRANK_TILE_MULTIPLY(sum, left, right) _tile_dpbf16ps(sum, left, right)
