// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A number is a pure function of (key, counter), so there is no generator state
// to save, no dependence on thread count, and CPU and GPU draw the same bits (constexpr, so that
// device code can call these).
#pragma once

#include <cstdint>
#include <initializer_list>

namespace lowrank {

struct Philox4 {
  uint32_t v[4];
};

constexpr Philox4 philox4x32(uint64_t key, uint64_t counter_lo, uint64_t counter_hi) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter_lo), c1 = static_cast<uint32_t>(counter_lo >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_hi), c3 = static_cast<uint32_t>(counter_hi >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// What a random number is for; part of the counter, so that uses never share numbers.
enum class RandomUse : uint32_t { kDropout = 1, kInit = 2, kSample = 3, kTest = 4 };

// Combines a seed with where the number is used into one Philox key. SplitMix64 finalizer
// (Steele et al. 2014), so that neighbouring inputs give unrelated keys.
constexpr uint64_t random_key(uint64_t seed, RandomUse use, uint64_t step = 0, uint64_t site = 0) {
  uint64_t z = seed;
  for (uint64_t word : {static_cast<uint64_t>(use), step, site}) {
    z += 0x9E3779B97F4A7C15ull + word;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
  }
  return z;
}

// Element `index` of the stream `key`: 32 uniform bits.
constexpr uint32_t random_bits(uint64_t key, uint64_t index) {
  return philox4x32(key, index >> 2, 0).v[index & 3];
}

// Uniform in [0, 1) with 24 bits.
constexpr float random_uniform(uint64_t key, uint64_t index) {
  return static_cast<float>(random_bits(key, index) >> 8) * 0x1p-24f;
}

// The dropout decision for element `index` = row * columns + column of an op's input: keep when the
// 32 bits reach the threshold p * 2^32. Kept values are scaled by 1 / (1 - p).
constexpr uint32_t dropout_threshold(float p) {
  return static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
}
constexpr bool dropout_keeps(uint64_t key, uint64_t index, uint32_t threshold) {
  return random_bits(key, index) >= threshold;
}

// Standard normal by Box-Muller over two uniforms; used for initialisation only.
float random_normal(uint64_t key, uint64_t index);

}  // namespace lowrank
