// Eight neighbouring elements at a time, by vector loads and stores of 16 bytes where they are
// aligned to them, and walks over matrices and rows in such steps.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace lowrank::cuda {

// Eight elements of a float type at `from`, which is aligned to 16 bytes.
LOWRANK_DEVICE inline void load8_aligned(const float* from, float (&v)[8]) {
  LOWRANK_UNROLL
  for (int half = 0; half < 2; ++half) {
    struct alignas(16) Floats {
      float f[4];
    };
    const auto part = load_vector<Floats>(from + 4 * half);
    LOWRANK_UNROLL
    for (int i = 0; i < 4; ++i) v[4 * half + i] = part.f[i];
  }
}
template <typename T>
LOWRANK_DEVICE inline void load8_aligned(const T* from, float (&v)[8]) {
  const auto words = load_vector<Words4>(from);
  LOWRANK_UNROLL
  for (int i = 0; i < 8; ++i)
    v[i] = as_float(T{static_cast<uint16_t>(words.w[i / 2] >> (i % 2 * 16))});
}

template <typename T>
LOWRANK_DEVICE inline void load8_floats(const T* from, int64_t count, float (&v)[8]) {
  if (count == 8 && aligned(from, 16)) {
    load8_aligned(from, v);
    return;
  }
  LOWRANK_UNROLL
  for (int i = 0; i < 8; ++i) v[i] = i < count ? as_float(from[i]) : 0.0f;
}

// The first `count` of eight elements.
template <typename T>
LOWRANK_DEVICE inline void store8_floats(T* to, int64_t count, const float (&v)[8]) {
  if (count == 8 && aligned(to, 16)) {
    constexpr int kPerWord = 4 / static_cast<int>(sizeof(T));
    LOWRANK_UNROLL
    for (int part = 0; part < static_cast<int>(sizeof(T)) / 2; ++part) {
      Words4 words{};
      LOWRANK_UNROLL
      for (int i = 0; i < 4 * kPerWord; ++i) {
        const T element = element_from<T>(v[part * 4 * kPerWord + i]);
        words.w[i / kPerWord] |= bits_of(element) << (i % kPerWord * 16);
      }
      *reinterpret_cast<Words4*>(to + part * 4 * kPerWord) = words;
    }
    return;
  }
  LOWRANK_UNROLL
  for (int i = 0; i < 8; ++i)
    if (i < count) to[i] = element_from<T>(v[i]);
}

// A thread per eight neighbours of a row: body(row, col, count).
inline Grid chunk_grid(int64_t rows, int64_t cols) {
  return element_grid(rows, divide_up(cols, 8));
}
template <typename Body>
LOWRANK_DEVICE inline void for_each_chunk(int64_t rows, int64_t cols, const Body& body) {
  for_each_element(rows, divide_up(cols, 8), [&](int64_t row, int64_t chunk) {
    body(row, chunk * 8, smaller<int64_t>(8, cols - chunk * 8));
  });
}

// A block's threads share a row: body(col, count).
template <typename Body>
LOWRANK_DEVICE inline void for_each_chunk_of_row(int64_t cols, const Body& body) {
  for (int64_t col = int64_t{thread_index()} * 8; col < cols; col += int64_t{block_size()} * 8)
    body(col, smaller<int64_t>(8, cols - col));
}

}  // namespace lowrank::cuda
