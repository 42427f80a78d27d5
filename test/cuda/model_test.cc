// The execution model itself: what it computes, and that it catches the mistakes it is there for.
#include <cmath>
#include <string>
#include <vector>

#include "cuda/device.cuh"
#include "support/test.h"

using namespace lowrank;
using namespace lowrank::cuda;

namespace {

struct Row {
  SharedArray<int, 128> values;
};

// Each thread takes its neighbour's value.
LOWRANK_KERNEL void rotate(int* out, bool with_barrier) {
  Row& row = shared<Row>();
  const unsigned i = thread_index();
  row.values[i] = static_cast<int>(i);
  if (with_barrier) block_sync();
  out[block_index().x * block_size() + i] = row.values[(i + 1) % block_size()];
}

LOWRANK_KERNEL void one_thread_skips_the_barrier(int*) {
  if (thread_index() != 3) block_sync();
}
LOWRANK_KERNEL void two_barriers(int*) {
  if (thread_index() % 2 == 0)
    block_sync();
  else
    block_sync();
}
LOWRANK_KERNEL void lane_leaves(int* out) {
  if (thread_index() == 40) return;
  out[thread_index()] = shuffle_xor(1, 1);
}
LOWRANK_KERNEL void outside_shared(int*) { shared<Row>().values[thread_index() * 2] = 1; }
struct Two {
  Row row[2];
};
LOWRANK_KERNEL void more_shared_than_launched(int*) { shared<Two>().row[0].values[0] = 1; }
LOWRANK_KERNEL void shared_is_poisoned(int* out) {
  out[thread_index()] = shared<Row>().values[thread_index()];
}
LOWRANK_KERNEL void sum_kernel(double* out, const float* in) {
  SharedArray<double, 32>& scratch = shared<SharedArray<double, 32>>();
  const unsigned i = thread_index();
  const double sum = block_reduce(static_cast<double>(in[i]), Add{}, scratch);
  out[i] = sum;
}

template <typename Shared, typename Kernel, typename... Arguments>
void run(uint64_t seed, Kernel kernel, unsigned blocks, unsigned threads, Arguments... arguments) {
  ModelStream stream{seed};
  launch<Shared>(&stream, kernel, Grid{blocks}, threads, arguments...);
}

// The model's message, or "" when it found nothing.
template <typename Shared, typename Kernel>
std::string complaint(Kernel kernel, unsigned threads) {
  std::vector<int> out(1024);
  try {
    run<Shared>(1, kernel, 1, threads, out.data());
  } catch (const model::ModelError& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST(threads_exchange_values_through_shared_memory) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    std::vector<int> out(3 * 128);
    run<Row>(seed, rotate, 3, 128, out.data(), true);
    for (size_t i = 0; i < out.size(); ++i) CHECK_EQ(out[i], static_cast<int>((i + 1) % 128));
  }
}

TEST(a_missing_barrier_shows) {
  for (uint64_t seed = 0; seed < 5; ++seed) {
    std::vector<int> out(128);
    run<Row>(seed, rotate, 1, 128, out.data(), false);
    int wrong = 0;
    for (size_t i = 0; i < out.size(); ++i) wrong += out[i] != static_cast<int>((i + 1) % 128);
    CHECK(wrong > 0);
  }
}

TEST(a_barrier_that_not_every_thread_reaches_is_an_error) {
  CHECK(contains(complaint<NoShared>(one_thread_skips_the_barrier, 64),
                 "divergent barrier: 1 threads have ended"));
  CHECK(contains(complaint<NoShared>(two_barriers, 64), "divergent barrier: threads wait at"));
}

TEST(a_shuffle_without_all_lanes_is_an_error) {
  const std::string text = complaint<NoShared>(lane_leaves, 64);
  CHECK(contains(text, "lane 8, which has ended") || contains(text, "that don't come"));
}

TEST(shared_memory_is_bounded_and_poisoned) {
  CHECK(contains(complaint<Row>(outside_shared, 128), "outside a shared array of 128"));
  CHECK(contains(complaint<Row>(more_shared_than_launched, 1), "the launch has 512"));
  std::vector<int> out(128);
  run<Row>(1, shared_is_poisoned, 1, 128, out.data());
  for (int value : out) CHECK_EQ(value, -1);
  CHECK(contains(complaint<SharedArray<char, (size_t{99} << 10) + 1>>(shared_is_poisoned, 1),
                 "bytes of shared memory in a block"));
}

TEST(the_model_recovers_after_an_error) {
  CHECK(!complaint<NoShared>(one_thread_skips_the_barrier, 64).empty());
  std::vector<int> out(128);
  run<Row>(2, rotate, 1, 128, out.data(), true);
  CHECK_EQ(out[127], 0);
}

TEST(reductions_have_the_same_bits_in_every_order) {
  std::vector<float> in(256);
  double expected = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    in[i] = std::sin(static_cast<float>(i)) * 100;
    expected += static_cast<double>(in[i]);
  }
  double first = 0;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    std::vector<double> out(256);
    run<SharedArray<double, 32>>(seed, sum_kernel, 1, 256, out.data(),
                                 static_cast<const float*>(in.data()));
    if (seed == 0) first = out[0];
    for (double sum : out) CHECK_EQ(sum, first);
  }
  CHECK_NEAR(first, expected, 1e-11);
}

namespace {

struct Copies {
  SharedArray<BF16, 32 * 8> early, late;
};

// Each thread copies 8 values to either array, and reads its neighbour's.
LOWRANK_KERNEL void copy_rows(const BF16* from, float* out, int waits, bool at_end) {
  Copies& s = shared<Copies>();
  const unsigned i = thread_index();
  copy_async(s.early, i * 8, from + i * 8);
  copies_commit();
  copy_async(s.late, i * 8, from + i * 8);
  copies_commit();
  if (waits == 1) copies_wait<1>();
  if (waits == 2) copies_wait<0>();
  block_sync();
  const unsigned next = (i + 1) % 32;
  out[2 * i] = as_float(s.early[next * 8 + 3]);
  out[2 * i + 1] = as_float(s.late[next * 8 + 3]);
  block_sync();
  if (at_end) copies_wait<0>();
}

std::vector<float> copied(int waits, bool at_end = true) {
  alignas(16) BF16 from[256];
  for (unsigned i = 0; i < 256; ++i) from[i] = to_bf16(static_cast<float>(i));
  std::vector<float> out(64);
  run<Copies>(4, copy_rows, 1, 32, static_cast<const BF16*>(from), out.data(), waits, at_end);
  return out;
}

}  // namespace

TEST(asynchronous_copies_arrive_when_they_are_awaited) {
  for (int waits = 0; waits < 3; ++waits) {
    const std::vector<float> out = copied(waits);
    for (unsigned i = 0; i < 32; ++i) {
      const float expected = static_cast<float>((i + 1) % 32 * 8 + 3);
      CHECK(waits >= 1 ? out[2 * i] == expected : std::isnan(out[2 * i]));
      CHECK(waits >= 2 ? out[2 * i + 1] == expected : std::isnan(out[2 * i + 1]));
    }
  }
  try {
    copied(1, false);
    CHECK(false);
  } catch (const model::ModelError& error) {
    CHECK(contains(error.what(), "copies are under way"));
  }
}

namespace {

// 16 x 16 values, value = row * 16 + column, as fragments of both kinds.
struct Square {
  SharedArray<BF16, 16 * 24> values;
};
template <bool kTransposed>
LOWRANK_KERNEL void load_square(float* out) {
  Square& s = shared<Square>();
  const unsigned lane = thread_index();
  for (unsigned i = lane; i < 256; i += 32)
    s.values[i / 16 * 24 + i % 16] = element_from<BF16>(static_cast<float>(i));
  block_sync();
  Pair pairs[4];
  load_matrices<kTransposed>(s.values, lane % 16 * 24 + lane / 16 * 8, pairs);
  for (unsigned m = 0; m < 4; ++m)
    for (unsigned half = 0; half < 2; ++half)
      out[(lane * 4 + m) * 2 + half] =
          to_float(BF16{static_cast<uint16_t>(pairs[m] >> (16 * half))});
}

}  // namespace

TEST(matrices_are_loaded_as_fragments) {
  std::vector<float> plain(256), transposed(256);
  run<Square>(1, load_square<false>, 1, 32, plain.data());
  run<Square>(1, load_square<true>, 1, 32, transposed.data());
  for (unsigned lane = 0; lane < 32; ++lane)
    for (unsigned m = 0; m < 4; ++m)
      for (unsigned half = 0; half < 2; ++half) {
        // Matrix m begins at row m % 2 * 8, column m / 2 * 8.
        const unsigned first = m % 2 * 8 * 16 + m / 2 * 8, at = (lane * 4 + m) * 2 + half;
        const unsigned along = lane % 4 * 2 + half, across = lane / 4;
        CHECK_EQ(plain[at], static_cast<float>(first + across * 16 + along));
        CHECK_EQ(transposed[at], static_cast<float>(first + along * 16 + across));
      }
}

namespace {

float a_of(unsigned row, unsigned k) {
  return static_cast<float>(row) - 0.5f * static_cast<float>(k);
}
float b_of(unsigned k, unsigned col) { return static_cast<float>(k * col % 7) - 2; }

// Fragments by the table of the PTX ISA (9.7.14, "mma.m16n8k16"), written out independently of the
// model: row and column of element i of a lane.
template <MmaFormat F>
LOWRANK_KERNEL void one_product(float* out) {
  const unsigned lane = thread_index(), group = lane >> 2, in_group = lane & 3;
  const auto bits = [](float x) {
    return static_cast<Pair>(F == MmaFormat::kBF16 ? to_bf16(x).bits : to_f16(x).bits);
  };
  Pair a[4] = {}, b[2] = {};
  for (unsigned i = 0; i < 8; ++i) {
    const unsigned row = (i < 2 || (i >= 4 && i < 6)) ? group : group + 8;
    const unsigned col = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
    a[i / 2] |= bits(a_of(row, col)) << (i % 2 * 16);
  }
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
    b[i / 2] |= bits(b_of(row, group)) << (i % 2 * 16);
  }
  float d[4] = {1, 1, 1, 1};
  mma_16x8x16<F>(d, a, b);
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned row = i < 2 ? group : group + 8;
    out[row * 8 + in_group * 2 + (i & 1)] = d[i];
  }
}

}  // namespace

TEST(the_matrix_instruction_multiplies) {
  for (int format = 0; format < 2; ++format) {
    std::vector<float> out(128);
    if (format == 0)
      run<NoShared>(3, one_product<MmaFormat::kBF16>, 1, 32, out.data());
    else
      run<NoShared>(3, one_product<MmaFormat::kF16>, 1, 32, out.data());
    for (unsigned row = 0; row < 16; ++row)
      for (unsigned col = 0; col < 8; ++col) {
        float sum = 1;
        for (unsigned k = 0; k < 16; ++k) sum += a_of(row, k) * b_of(k, col);
        CHECK_EQ(out[row * 8 + col], sum);  // small integers and halves: exact
      }
  }
}
