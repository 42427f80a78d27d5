// The target of device.cuh for the CPU: kernels are plain functions that machine.h runs.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>

#include "model/machine.h"
#include "model/stream.h"

#define LOWRANK_KERNEL inline
#define LOWRANK_DEVICE
#define LOWRANK_UNROLL
#define LOWRANK_KEEP_LOOP

namespace lowrank::cuda {

using Stream = ModelStream*;

inline unsigned thread_index() { return model::here().thread; }
inline unsigned block_size() { return model::here().threads; }
inline Grid block_index() {
  const model::Index& block = model::here().block;
  return {block.x, block.y, block.z};
}
inline Grid grid_size() {
  const model::Index& grid = model::here().grid;
  return {grid.x, grid.y, grid.z};
}

inline void block_sync(model::SourcePlace place = model::SourcePlace::current()) {
  model::barrier(place);
}
inline void warp_sync(model::SourcePlace place = model::SourcePlace::current()) {
  char none = 0;
  model::meet(
      0xffffffffu, &none, &none, 1, 1, [](const unsigned char*, unsigned char*, uint32_t) {},
      place);
}

namespace model {

struct ShuffleInput {
  unsigned char value[8];
  uint32_t lanes;
};

inline void exchange(const unsigned char* inputs, unsigned char* outputs, uint32_t) {
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    ShuffleInput own;
    std::memcpy(&own, inputs + lane * kRowBytes, sizeof own);
    std::memcpy(outputs + lane * kRowBytes, inputs + (lane ^ own.lanes) % kWarpSize * kRowBytes, 8);
  }
}

struct MmaInput {
  Pair a[4], b[2];
  float d[4];
};

// The value of one half of a pair.
template <MmaFormat F>
float half_of(Pair pair, unsigned upper) {
  const auto bits = static_cast<uint16_t>(upper ? pair >> 16 : pair);
  if constexpr (F == MmaFormat::kBF16)
    return to_float(BF16{bits});
  else
    return to_float(F16{bits});
}

// The product of the fragments of 32 lanes; see mma_16x8x16 in target_nvcc.cuh for who holds what.
// Sums are taken in double: hardware's order and width of summation aren't documented.
template <MmaFormat F>
void multiply(const unsigned char* inputs, unsigned char* outputs, uint32_t) {
  double a[16][16], b[16][8], d[16][8];
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    MmaInput in;
    std::memcpy(&in, inputs + lane * kRowBytes, sizeof in);
    const unsigned group = lane / 4, pair = lane % 4 * 2;
    for (unsigned i = 0; i < 4; ++i)
      for (unsigned half = 0; half < 2; ++half)
        a[group + i % 2 * 8][pair + i / 2 * 8 + half] = half_of<F>(in.a[i], half);
    for (unsigned i = 0; i < 2; ++i)
      for (unsigned half = 0; half < 2; ++half)
        b[pair + i * 8 + half][group] = half_of<F>(in.b[i], half);
    for (unsigned i = 0; i < 4; ++i) d[group + i / 2 * 8][pair + i % 2] = in.d[i];
  }
  for (auto& row : d) {
    const auto& left = a[&row - d];
    for (unsigned col = 0; col < 8; ++col)
      for (unsigned k = 0; k < 16; ++k) row[col] += left[k] * b[k][col];
  }
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    float result[4];
    for (unsigned i = 0; i < 4; ++i)
      result[i] = static_cast<float>(d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2]);
    std::memcpy(outputs + lane * kRowBytes, result, sizeof result);
  }
}

// Four 8 x 8 matrices; see load_matrices in target_nvcc.cuh.
template <bool kTransposed>
void give_matrices(const unsigned char* inputs, unsigned char* outputs, uint32_t) {
  uint16_t rows[4][8][8];
  for (unsigned lane = 0; lane < kWarpSize; ++lane)
    std::memcpy(rows[lane / 8][lane % 8], inputs + lane * kRowBytes, 16);
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    uint16_t result[4][2];
    for (unsigned m = 0; m < 4; ++m)
      for (unsigned half = 0; half < 2; ++half)
        result[m][half] = kTransposed ? rows[m][lane % 4 * 2 + half][lane / 4]
                                      : rows[m][lane / 4][lane % 4 * 2 + half];
    std::memcpy(outputs + lane * kRowBytes, result, sizeof result);
  }
}

}  // namespace model

template <typename T>
T shuffle_xor(T value, unsigned lanes, model::SourcePlace place = model::SourcePlace::current()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  model::ShuffleInput input{{}, lanes};
  std::memcpy(input.value, &value, sizeof value);
  model::meet(0xffffffffu, &input, &value, sizeof input, sizeof value, model::exchange, place);
  return value;
}

template <MmaFormat F = MmaFormat::kBF16>
void mma_16x8x16(float (&d)[4], const Pair (&a)[4], const Pair (&b)[2],
                 model::SourcePlace place = model::SourcePlace::current()) {
  model::MmaInput input;
  static_assert(sizeof input <= model::kRowBytes);
  std::memcpy(input.a, a, sizeof a);
  std::memcpy(input.b, b, sizeof b);
  std::memcpy(input.d, d, sizeof d);
  model::meet(0xffffffffu, &input, d, sizeof input, sizeof d, model::multiply<F>, place);
}

template <typename T>
T& shared() {
  return *static_cast<T*>(model::shared_memory(sizeof(T)));
}

template <typename T, size_t N>
struct SharedArray {
  T values[N];
  size_t checked(size_t i) const {
    if (i >= N)
      model::fail("index " + std::to_string(i) + " outside a shared array of " + std::to_string(N));
    return i;
  }
  T& operator[](size_t i) { return values[checked(i)]; }
  const T& operator[](size_t i) const { return values[checked(i)]; }
  Pair pair(size_t i) const {
    if (i % 2 != 0) model::fail("a pair at an odd index of a shared array");
    Pair pair;
    static_assert(sizeof(T) == 2);
    std::memcpy(&pair, values + checked(i), sizeof pair);
    return pair;
  }
  void set_words(size_t i, const Words4& words) {
    if (i * sizeof(T) % sizeof words != 0) model::fail("words at an index that isn't aligned");
    checked(i + sizeof words / sizeof(T) - 1);
    std::memcpy(values + i, &words, sizeof words);
  }
  void set_pair(size_t i, Pair pair) {
    if (i % 2 != 0) model::fail("a pair at an odd index of a shared array");
    static_assert(sizeof(T) == 2);
    std::memcpy(values + checked(i), &pair, sizeof pair);
  }
};

template <bool kTransposed, size_t N>
void load_matrices(const SharedArray<BF16, N>& tile, size_t i, Pair (&to)[4],
                   model::SourcePlace place = model::SourcePlace::current()) {
  if (i % 8 != 0) model::fail("a row of a matrix that isn't aligned to 16 bytes");
  tile.checked(i + 7);
  model::meet(0xffffffffu, tile.values + i, to, 16, sizeof to, model::give_matrices<kTransposed>,
              place);
}

template <typename T, size_t N>
void copy_async(SharedArray<T, N>& to, size_t i, const void* from) {
  if (reinterpret_cast<uintptr_t>(to.values + i) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(from) % 16 != 0)
    model::fail("an asynchronous copy that isn't aligned");
  to.checked(i + 16 / sizeof(T) - 1);
  model::copy_later(to.values + i, from);
}
inline void copies_commit() { model::commit_copies(); }
template <int kLeft>
void copies_wait() {
  model::await_copies(kLeft);
}

inline float float_from_bf16(BF16 x) { return to_float(x); }
inline BF16 bf16_from_float(float x) { return to_bf16(x); }

// In double: a processor's own instruction can't be relied on, and the library's function is slow.
inline float multiply_add(float a, float b, float c) {
  return static_cast<float>(static_cast<double>(a) * static_cast<double>(b) +
                            static_cast<double>(c));
}

template <typename T>
T load_vector(const void* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T) != 0) model::fail("a load that isn't aligned");
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

template <typename Shared, typename... Parameters, typename... Arguments>
void launch(Stream stream, void (*kernel)(Parameters...), Grid grid, unsigned threads,
            const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> values;
  } call{kernel, {Parameters(arguments)...}};
  const auto body = [](void* argument) {
    const Call& c = *static_cast<Call*>(argument);
    std::apply(c.kernel, c.values);
  };
  const size_t bytes = std::is_empty_v<Shared> ? 0 : sizeof(Shared);
  model::run_grid({grid.x, grid.y, grid.z}, threads, bytes, stream->seed, body, &call);
}

}  // namespace lowrank::cuda
