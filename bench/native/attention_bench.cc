// Causal attention, forward and backward, against the product peak of one thread.
//   attention_bench [isa] [dtype] [queries]
// FLOPs by convention: 4 head_dim per visible pair and head forward, twice that backward.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/error.h"
#include "core/random.h"
#include "ops/attention.h"
#include "support.h"

using namespace lowrank;

namespace {

struct Shape {
  int32_t heads, kv_heads, head_dim;
};

void fill(Buffer& buffer, DType dtype, int64_t count, uint64_t seed) {
  const uint64_t key = random_key(seed, RandomUse::kTest);
  for (int64_t i = 0; i < count; ++i) {
    const float x = random_normal(key, static_cast<uint64_t>(i));
    if (dtype == DType::kBF16)
      buffer.as<BF16>()[i] = to_bf16(x);
    else
      buffer.as<float>()[i] = x;
  }
}

// One document of `keys` rows whose last `queries` rows ask.
void run(const std::shared_ptr<Device>& device, DType dtype, const Shape& shape, int64_t queries,
         int64_t keys) {
  const int64_t q_cols = shape.heads * shape.head_dim, k_cols = shape.kv_heads * shape.head_dim;
  const auto buffer = [&](int64_t rows, int64_t cols, uint64_t seed) {
    Buffer b(device, static_cast<size_t>(rows * cols) * dtype_size(dtype));
    fill(b, dtype, rows * cols, seed);
    return b;
  };
  Buffer q = buffer(queries, q_cols, 1), k = buffer(keys, k_cols, 2), v = buffer(keys, k_cols, 3);
  Buffer out = buffer(queries, q_cols, 4), d_out = buffer(queries, q_cols, 5);
  Buffer d_q = buffer(queries, q_cols, 6), d_k = buffer(keys, k_cols, 7);
  Buffer d_v = buffer(keys, k_cols, 8);
  std::vector<float> lse(static_cast<size_t>(shape.heads * queries));
  const int32_t q_offsets[2] = {0, static_cast<int32_t>(queries)};
  const int32_t k_offsets[2] = {0, static_cast<int32_t>(keys)};
  const auto matrix = [&](const Buffer& b, int64_t rows, int64_t cols) {
    return Matrix{b.data(), dtype, rows, cols, cols};
  };

  AttentionShape needs;
  needs.query_tokens = queries, needs.key_tokens = keys;
  needs.heads = shape.heads, needs.kv_heads = shape.kv_heads, needs.head_dim = shape.head_dim;
  needs.activation = dtype, needs.backward = true;
  Buffer workspace(device, ops::attention_workspace_bytes(*device, needs));

  AttentionBackward backward;
  AttentionForward& op = backward.forward;
  op.q = matrix(q, queries, q_cols), op.out = matrix(out, queries, q_cols);
  op.k = matrix(k, keys, k_cols), op.v = matrix(v, keys, k_cols);
  op.lse = lse.data();
  op.q_offsets = q_offsets, op.k_offsets = k_offsets, op.documents = 1;
  op.heads = shape.heads, op.kv_heads = shape.kv_heads, op.head_dim = shape.head_dim;
  op.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
  op.workspace = workspace.data(), op.workspace_bytes = workspace.bytes();
  backward.d_out = matrix(d_out, queries, q_cols), backward.d_q = matrix(d_q, queries, q_cols);
  backward.d_k = matrix(d_k, keys, k_cols), backward.d_v = matrix(d_v, keys, k_cols);

  const double pairs = static_cast<double>(queries) * static_cast<double>(keys - queries) +
                       static_cast<double>(queries) * static_cast<double>(queries + 1) / 2;
  const double flops = 4.0 * pairs * static_cast<double>(q_cols);
  const DeviceInfo info = device->info();
  std::vector<std::function<void()>> bodies{[&] { ops::attention_forward(*device, op); }};
  if (queries > 1) bodies.push_back([&] { ops::attention_backward(*device, backward); });
  const bench::CalmTimes times = bench::measure_calm(*device, dtype, bodies);
  for (size_t i = 0; i < bodies.size(); ++i) {
    const double median = bench::quantile(times.seconds[i], 0.5);
    const double rate = flops * static_cast<double>(i + 1) / median;
    bench::Row row;
    row.text("op", i ? "attention_backward" : "attention_forward").text("isa", info.isa);
    row.text("dtype", dtype_name(dtype)).number("threads", info.threads);
    row.number("queries", static_cast<double>(queries)).number("keys", static_cast<double>(keys));
    row.number("heads", shape.heads).number("kv_heads", shape.kv_heads);
    row.number("head_dim", shape.head_dim).number("calm", times.calm);
    row.number("calls", static_cast<double>(times.seconds[i].size())).number("seconds", median);
    row.number("gflops", rate * 1e-9).number("share_of_peak", rate / times.peak);
    if (queries == 1)
      row.number("read_gb_per_s", static_cast<double>(2 * keys * k_cols) *
                                      static_cast<double>(dtype_size(dtype)) / median * 1e-9);
    row.print();
  }
}

}  // namespace

int main(int argc, char** argv) {
  DeviceOptions options;
  options.threads = 1;
  options.isa = argc > 1 ? argv[1] : nullptr;
  const std::string only = argc > 2 ? argv[2] : "";
  std::vector<int64_t> numbers{512, 2048, 1};
  if (argc > 3) numbers = {std::atoll(argv[3])};
  try {
    if (numbers[0] < 1) throw Error(ErrorCode::kInvalidArgument, "queries: at least 1", argv[3]);
    const auto device = Device::open("cpu", options);
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      if (!only.empty() && only != dtype_name(dtype)) continue;
      for (int64_t queries : numbers) {
        const int64_t keys = queries == 1 ? 8192 : queries;
        run(device, dtype, {9, 3, 64}, queries, keys);
        run(device, dtype, {16, 8, 128}, queries, keys);
        if (queries == 1) run(device, dtype, {32, 8, 128}, queries, keys);
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
