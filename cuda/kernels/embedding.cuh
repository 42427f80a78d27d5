// Embedding lookup, and its gradient without atomics: tokens are sorted by id, and the block of the
// first token of a run adds the run's rows, in row order because the sort is stable.
#pragma once

#include "cuda/kernels/rows.cuh"

namespace lowrank::cuda {

template <typename X>
LOWRANK_KERNEL void embedding_kernel(const int32_t* ids, Weight weight, const Tables* tables,
                                     View<X> y) {
  for_each_element(y.rows, y.cols, [&](int64_t row, int64_t col) {
    const int64_t index = int64_t{ids[row]} * weight.cols + col;
    y.at(row, col) = element_from<X>(weight_value(weight, *tables, index));
  });
}

// Radix sort of tokens by id by one block (Knuth, TAOCP 3, 5.2.5): each thread keeps a stretch of
// the order, counts its digits, and after a scan over (digit, thread) moves its tokens in their
// order.
inline constexpr unsigned kSortThreads = 512;
inline constexpr unsigned kSortBits = 4, kDigits = 1u << kSortBits;

struct SortShared {
  SharedArray<uint32_t, kDigits * kSortThreads> counts;  // by digit, then by thread
  SharedArray<uint32_t, kSortThreads> sums;
  SharedArray<int, kSortThreads / kWarp> largest;
};

struct LargestInt {
  LOWRANK_DEVICE int operator()(int a, int b) const { return larger(a, b); }
};

// counts[i] = the sum of all counts before i.
LOWRANK_DEVICE inline void scan_counts(SortShared& s) {
  const unsigned thread = thread_index();
  uint32_t sum = 0;
  for (unsigned i = 0; i < kDigits; ++i) sum += s.counts[thread * kDigits + i];
  s.sums[thread] = sum;
  for (unsigned distance = 1; distance < kSortThreads; distance *= 2) {
    block_sync();
    const uint32_t before = thread >= distance ? s.sums[thread - distance] : 0;
    block_sync();
    s.sums[thread] += before;
  }
  uint32_t total = s.sums[thread] - sum;
  for (unsigned i = 0; i < kDigits; ++i) {
    const uint32_t count = s.counts[thread * kDigits + i];
    s.counts[thread * kDigits + i] = total;
    total += count;
  }
  block_sync();
}

// order [count] = tokens by id, then by row. `spare` has as many elements.
LOWRANK_KERNEL void sort_tokens_kernel(const int32_t* ids, int32_t count, int32_t* order,
                                       int32_t* spare) {
  SortShared& s = shared<SortShared>();
  const unsigned thread = thread_index();
  const int32_t each = static_cast<int32_t>(divide_up(count, kSortThreads));
  const int32_t begin = smaller(count, static_cast<int32_t>(thread) * each);
  const int32_t end = smaller(count, begin + each);
  int32_t largest = 0;
  for (int32_t i = begin; i < end; ++i) largest = larger(largest, ids[i]);
  largest = block_reduce(largest, LargestInt{}, s.largest);
  unsigned bits = kSortBits;
  while (bits < 32 && static_cast<uint32_t>(largest) >> bits != 0) bits += kSortBits;
  // An even number of passes ends in `order`.
  const unsigned passes = (bits / kSortBits + 1) / 2 * 2;
  for (int32_t i = begin; i < end; ++i) order[i] = i;
  for (unsigned pass = 0; pass < passes; ++pass) {
    const int32_t* from = pass % 2 == 0 ? order : spare;
    int32_t* to = pass % 2 == 0 ? spare : order;
    const auto digit_of = [&](int32_t token) {
      const uint64_t id = static_cast<uint32_t>(ids[token]);
      return static_cast<unsigned>(id >> (pass * kSortBits)) % kDigits;
    };
    for (unsigned digit = 0; digit < kDigits; ++digit) s.counts[digit * kSortThreads + thread] = 0;
    for (int32_t i = begin; i < end; ++i) ++s.counts[digit_of(from[i]) * kSortThreads + thread];
    block_sync();
    scan_counts(s);
    for (int32_t i = begin; i < end; ++i)
      to[s.counts[digit_of(from[i]) * kSortThreads + thread]++] = from[i];
    block_sync();  // the next pass reads what others wrote
  }
}

// One block per sorted token and stretch of columns.
template <typename X>
LOWRANK_KERNEL void embedding_backward_kernel(const int32_t* ids, const int32_t* order, View<X> d_y,
                                              float* d_weight, int32_t padding_id) {
  const int64_t first = block_index().x,
                col = int64_t{block_index().y} * kRowThreads + thread_index();
  const int32_t id = ids[order[first]];
  if (id == padding_id || (first > 0 && ids[order[first - 1]] == id)) return;
  if (col >= d_y.cols) return;
  float* to = d_weight + id * d_y.cols + col;
  float sum = *to;
  for (int64_t i = first; i < d_y.rows && ids[order[i]] == id; ++i)
    sum += as_float(d_y.at(order[i], col));
  *to = sum;
}

}  // namespace lowrank::cuda
