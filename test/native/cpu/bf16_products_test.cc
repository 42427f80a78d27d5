// The linear layer and head over products of bf16, in emulated AMX tiles and in the machine's own
// vectors of pairs (AVX512_BF16), against the scalar reference. Where bf16
// operands are exact (bf16 weights, no adapter) only the order of the f32 sum differs; elsewhere
// f32 operands are rounded to bf16 once, 2^-9 relative each.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "core/dtype.h"
#include "core/random.h"
#include "cpu/cpu_device.h"
#include "support/test.h"

namespace lowrank::cpu::amx_emulated {
void register_gemm(KernelTable& table);
}

namespace lowrank {
namespace {

using cpu::CpuDevice;

struct Values {
  std::vector<float> f32;
  std::vector<BF16> bf16;
  Values(int64_t count, uint64_t key, float scale = 1) {
    for (int64_t i = 0; i < count; ++i) {
      const float x = scale * (random_uniform(key, static_cast<uint64_t>(i)) - 0.5f);
      bf16.push_back(to_bf16(x));
      f32.push_back(x);
    }
  }
};

Matrix matrix(std::vector<BF16>& data, int64_t rows, int64_t cols) {
  return {data.data(), DType::kBF16, rows, cols, cols};
}
Matrix matrix(std::vector<float>& data, int64_t rows, int64_t cols) {
  return {data.data(), DType::kF32, rows, cols, cols};
}

// Largest difference as a share of the expected values' root mean square.
double difference(const std::vector<float>& actual, const std::vector<float>& expected) {
  double largest = 0, square = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(actual[i]) - expected[i]));
    square += static_cast<double>(expected[i]) * expected[i];
  }
  return largest / std::sqrt(square / static_cast<double>(expected.size()) + 1e-30);
}
// The same as a share of the largest value: gradients of the head are almost all near zero.
double share_of_largest(const std::vector<float>& actual, const std::vector<float>& expected) {
  double largest = 0, scale = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(actual[i]) - expected[i]));
    scale = std::max(scale, std::abs(static_cast<double>(expected[i])));
  }
  return largest / scale;
}
std::vector<float> floats(const std::vector<BF16>& values) {
  std::vector<float> out;
  for (const BF16 value : values) out.push_back(to_float(value));
  return out;
}

// Sums of up to 300 f32 products in another order, relative to their root mean square.
constexpr double kOrderTolerance = 1e-5;
// Rounding of one or two operands (2^-9 each) and of a bf16 output (2^-9), as the largest of some
// thousand random errors: six deviations.
constexpr double kRoundingTolerance = 0.03;
// Three roundings of 2^-9 each: both operands and the bf16 output.
constexpr double kLargestTolerance = 3.0 / 512;

// Calls check(device) for both, where the machine can run them.
template <typename Check>
void on_devices(const Check& check) {
  if (cpu::isa_available(cpu::Isa::kAvx512)) {
    CpuDevice emulated(2, "avx512");
    cpu::amx_emulated::register_gemm(emulated.kernels);
    check(emulated);
  } else {
    std::printf("  not run: no AVX-512 to emulate tiles with\n");
  }
  if (cpu::isa_available(cpu::Isa::kAvx512BF16)) {
    CpuDevice pairs(2, "avx512_bf16");
    check(pairs);
  } else {
    std::printf("  not run: no AVX512_BF16\n");
  }
}

void check_plain_product(CpuDevice& device, int64_t tokens, int64_t in, int64_t out) {
  Values x(tokens * in, 1), w(out * in, 2);
  std::vector<float> y(static_cast<size_t>(tokens * out)), expected(y.size());
  LinearForward op;
  op.x = matrix(x.bf16, tokens, in);
  op.weight.data = w.bf16.data();
  op.weight.storage = Storage::kBF16;
  op.weight.rows = out;
  op.weight.cols = in;
  LinearShape shape;
  shape.tokens = tokens;
  shape.in = in;
  shape.out = out;
  shape.activation = DType::kBF16;
  std::vector<char> workspace(device.kernels.linear_workspace_bytes(device, shape) + 64);
  op.workspace = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64) % 64;
  op.y = matrix(y, tokens, out);
  device.kernels.linear_forward(device, op);
  op.y = matrix(expected, tokens, out);
  device.reference.linear_forward(device, op);
  CHECK(difference(y, expected) < kOrderTolerance);
}

// Forward and backward with an adapter, dropout, trained weight and bias.
struct Linear {
  int64_t tokens, in, out, rank;
  std::vector<BF16> y, d_x, xa;
  std::vector<float> d_a, d_b, d_weight, d_bias;

  Linear(cpu::KernelTable& kernels, CpuDevice& device, int64_t tokens_, int64_t in_, int64_t out_,
         bool dropout, int64_t rank_, int32_t segment_count)
      : tokens(tokens_), in(in_), out(out_), rank(rank_) {
    Values x(tokens * in, 1), w(out * in, 2), a(rank * in, 3), b(out * rank, 4),
        dy(tokens * out, 5), bias(out, 6);
    y.resize(static_cast<size_t>(tokens * out));
    d_x.resize(static_cast<size_t>(tokens * in));
    xa.resize(static_cast<size_t>(tokens * rank));
    d_a.assign(a.f32.size(), 0.25f);
    d_b.assign(b.f32.size(), 0.25f);
    d_weight.assign(w.f32.size(), 0.25f);
    d_bias.assign(static_cast<size_t>(out), 0.25f);
    // One adapter on all rows, or two on neighbouring rows that don't begin at a tile's edge.
    LoraSegment segments[2];
    for (int i = 0; i < 2; ++i) {
      segments[i].row_begin = segment_count == 1 ? 0 : i == 0 ? 3 : tokens / 2;
      segments[i].row_end = segment_count == 1 ? tokens : i == 0 ? tokens / 2 : tokens - 2;
      segments[i].a = a.f32.data();
      segments[i].b = b.f32.data();
      segments[i].d_a = d_a.data();
      segments[i].d_b = d_b.data();
      segments[i].rank = static_cast<int32_t>(rank);
      segments[i].scale = 1.5f;
      segments[i].dropout = dropout ? 0.25f : 0;
      segments[i].dropout_key = 7;
    }
    Weight weight;
    weight.data = w.f32.data();
    weight.storage = Storage::kF32;
    weight.rows = out;
    weight.cols = in;
    LinearShape shape;
    shape.tokens = tokens;
    shape.in = in;
    shape.out = out;
    shape.max_rank = static_cast<int32_t>(rank);
    shape.segment_count = segment_count;
    shape.dropout = dropout;
    shape.activation = DType::kBF16;
    size_t bytes = device.kernels.linear_workspace_bytes(device, shape);
    shape.backward = true;
    bytes = std::max(bytes, device.kernels.linear_workspace_bytes(device, shape));
    std::vector<char> workspace(bytes + 64);
    void* aligned =
        workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64) % 64;

    LinearForward forward;
    forward.x = matrix(x.bf16, tokens, in);
    forward.y = matrix(y, tokens, out);
    forward.weight = weight;
    forward.bias = bias.f32.data();
    forward.segments = segments;
    forward.segment_count = segment_count;
    forward.xa = matrix(xa, tokens, rank);
    forward.workspace = aligned;
    kernels.linear_forward(device, forward);
    LinearBackward backward;
    backward.x = forward.x;
    backward.d_y = matrix(dy.bf16, tokens, out);
    backward.d_x = matrix(d_x, tokens, in);
    backward.weight = weight;
    backward.d_weight = d_weight.data();
    backward.d_bias = d_bias.data();
    backward.segments = segments;
    backward.segment_count = segment_count;
    backward.xa = forward.xa;
    backward.workspace = aligned;
    kernels.linear_backward(device, backward);
  }
};

void check_linear(CpuDevice& device, int64_t tokens, int64_t in, int64_t out, bool dropout,
                  int64_t rank = 5, int32_t segment_count = 2) {
  const Linear actual(device.kernels, device, tokens, in, out, dropout, rank, segment_count);
  const Linear expected(device.reference, device, tokens, in, out, dropout, rank, segment_count);
  CHECK(difference(floats(actual.xa), floats(expected.xa)) < kRoundingTolerance);
  CHECK(difference(floats(actual.y), floats(expected.y)) < kRoundingTolerance);
  CHECK(difference(floats(actual.d_x), floats(expected.d_x)) < kRoundingTolerance);
  CHECK(difference(actual.d_a, expected.d_a) < kRoundingTolerance);
  CHECK(difference(actual.d_b, expected.d_b) < kRoundingTolerance);
  CHECK(difference(actual.d_weight, expected.d_weight) < kRoundingTolerance);
  CHECK(difference(actual.d_bias, expected.d_bias) < kOrderTolerance);
}

TEST(bf16_products_over_every_edge) {
  on_devices([](CpuDevice& device) {
    for (const int64_t tokens : {9, 31, 33, 100})
      for (const int64_t in : {2, 31, 33, 64, 545})
        for (const int64_t out : {1, 16, 17, 47, 300}) check_plain_product(device, tokens, in, out);
    // Whole panels of rows, read where they stand: 1,024 (tiles) or 2,048 wide ones are packed.
    for (const int64_t tokens : {32, 96})
      for (const int64_t in : {32, 96, 608, 1024, 1152, 2048})
        check_plain_product(device, tokens, in, 70);
    // More rows than one task has.
    check_plain_product(device, 1100, 33, 270);
  });
}

TEST(bf16_linear_with_adapters) {
  on_devices([](CpuDevice& device) {
    for (const bool dropout : {false, true}) {
      check_linear(device, 37, 48, 40, dropout);
      check_linear(device, 70, 33, 65, dropout);
      // Gradients over rows that are read where they stand, an odd number of them.
      for (const int64_t rank : {1, 8, 20, 32}) check_linear(device, 301, 80, 48, dropout, rank);
    }
    // So deep that tiles go through it slab by slab: forward, with two tasks' rows, and backward.
    for (const int32_t segments : {1, 2}) {
      check_linear(device, 550, 3400, 33, false, 5, segments);
      check_linear(device, 70, 65, 3400, false, 20, segments);
    }
  });
}

struct HeadCase {
  bool frozen;
  int64_t tokens, hidden, vocabulary;
  std::vector<int32_t> rows, targets;
  std::vector<float> weights;
};

void check_head(CpuDevice& device, const HeadCase& c) {
  const int64_t tokens = c.tokens, hidden = c.hidden, vocabulary = c.vocabulary;
  const bool frozen = c.frozen;
  const size_t count = c.rows.size();
  Values x(tokens * hidden, 1), w(vocabulary * hidden, 2);
  HeadLoss op;
  op.x = matrix(x.bf16, tokens, hidden);
  op.rows = c.rows.data();
  op.targets = c.targets.data();
  op.weights = c.weights.data();
  op.count = static_cast<int32_t>(count);
  op.weight.data = w.bf16.data();
  op.weight.storage = Storage::kBF16;
  op.weight.rows = vocabulary;
  op.weight.cols = hidden;
  HeadLossShape shape;
  shape.labelled = op.count;
  shape.hidden = hidden;
  shape.vocabulary = vocabulary;
  shape.backward = true;
  shape.weight_gradient = !frozen;
  shape.activation = DType::kBF16;
  const size_t bytes = device.kernels.head_loss_workspace_bytes(device, shape);
  constexpr size_t kGuard = size_t{1} << 20;
  std::vector<char> workspace(bytes + 64 + kGuard, 'g');
  char* aligned = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64) % 64;
  op.workspace = aligned;
  std::vector<float> logprob[2], d_weight[2];
  std::vector<BF16> d_x[2];
  for (int i = 0; i < 2; ++i) {
    logprob[i].resize(count);
    d_weight[i].assign(w.f32.size(), 0);
    d_x[i].resize(x.bf16.size());
    op.logprob = logprob[i].data();
    op.d_weight = frozen ? nullptr : d_weight[i].data();
    op.d_x = matrix(d_x[i], tokens, hidden);
    (i == 0 ? device.kernels : device.reference).head_loss(device, op);
  }
  CHECK(std::all_of(aligned + bytes, workspace.data() + workspace.size(),
                    [](char byte) { return byte == 'g'; }));
  CHECK(difference(logprob[0], logprob[1]) < kOrderTolerance);
  CHECK(share_of_largest(floats(d_x[0]), floats(d_x[1])) < kLargestTolerance);
  if (!frozen) CHECK(share_of_largest(d_weight[0], d_weight[1]) < kLargestTolerance);
}

TEST(bf16_head) {
  HeadCase few{
      true, 50, 40, 333, {1, 4, 5, 30, 49}, {0, 332, 17, 17, 100}, {0.1f, 0.2f, 0.3f, 0.3f, 0.1f}};
  // Rows that are packed with another stride, and as many of them as the workspace is for.
  HeadCase wide{true, 256, 1024, 64, {}, {}, {}};
  for (int32_t i = 0; i < 256; ++i) {
    wide.rows.push_back(i);
    wide.targets.push_back(i % 64);
    wide.weights.push_back(1.0f / 256);
  }
  on_devices([&](CpuDevice& device) {
    for (HeadCase* given : {&few, &wide})
      for (const bool frozen : {true, false}) {
        given->frozen = frozen;
        check_head(device, *given);
      }
  });
}

}  // namespace
}  // namespace lowrank
