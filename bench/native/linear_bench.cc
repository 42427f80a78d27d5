// The linear op with and without an adapter, and the fused head, against the product peak of one
// thread, over operands made as the op tests make them.
//   linear_bench [isa] [dtype] [only ops whose name contains this]
#include <cstdio>
#include <string>
#include <vector>

#include "core/error.h"
#include "ops/head_loss.h"
#include "ops/linear.h"
#include "support.h"
#include "support/op_cases.h"
#include "support/operands.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

constexpr int32_t kRank = 16;

struct Size {
  const char* name;
  int64_t tokens, in, out;
};
constexpr Size kSizes[] = {{"135m kv", 512, 576, 192},     {"135m q", 512, 576, 576},
                           {"135m up", 512, 576, 1536},    {"135m down", 512, 1536, 576},
                           {"0.6b q", 1024, 1024, 2048},   {"0.6b up", 1024, 1024, 3072},
                           {"0.6b down", 1024, 3072, 1024}};

struct Bench {
  std::shared_ptr<Device> device;
  DType dtype;
  std::string only;

  template <typename Run>
  void row(const std::string& op, const std::string& size, double flops, const Run& run) const {
    if (op.find(only) == std::string::npos) return;
    const double peak = bench::product_peak(*device, dtype);
    const bench::Timing timing = bench::measure(run, 0.4);
    bench::Row row;
    row.text("op", op).text("size", size).text("isa", device->info().isa);
    row.text("dtype", dtype_name(dtype)).number("seconds", timing.p50);
    row.number("cpu_seconds", timing.cpu_p20).number("gflops", flops / timing.cpu_p20 * 1e-9);
    row.number("share_of_peak", flops / timing.cpu_p20 / peak).print();
  }

  void linear(const Size& size, const StorageCase& storage) const {
    const auto [name, tokens, in, out] = size;
    TestMatrix x(device, tokens, in, dtype, 1), y(device, tokens, out, dtype, 2);
    TestMatrix d_y(device, tokens, out, dtype, 3), d_x(device, tokens, in, dtype, 4);
    TestMatrix xa(device, tokens, kRank, dtype, 5);
    TestWeight weight(device, out, in, storage.storage, storage.double_quant, 6, 0.3);
    TestVector a(device, kRank * in, 7, 0.1), b(device, out * kRank, 8, 0.1);
    TestVector d_a(device, kRank * in, 9, 0), d_b(device, out * kRank, 10, 0);
    LoraSegment segment;
    segment.row_end = tokens, segment.rank = kRank, segment.scale = 2;
    segment.a = a.data(), segment.b = b.data();
    segment.d_a = d_a.data(), segment.d_b = d_b.data();

    LinearShape shape;
    shape.tokens = tokens, shape.in = in, shape.out = out, shape.backward = true;
    shape.max_rank = kRank, shape.segment_count = 1;
    shape.activation = dtype, shape.storage = storage.storage;
    size_t bytes = ops::linear_workspace_bytes(*device, shape);
    shape.backward = false;
    bytes = std::max(bytes, ops::linear_workspace_bytes(*device, shape));
    TestWorkspace workspace(device, bytes);

    LinearForward forward;
    forward.x = x.matrix(), forward.y = y.matrix(), forward.weight = weight.weight();
    forward.segments = &segment, forward.xa = xa.matrix();
    forward.workspace = workspace.data(), forward.workspace_bytes = workspace.bytes();
    LinearBackward backward;
    backward.x = x.matrix(), backward.d_y = d_y.matrix(), backward.d_x = d_x.matrix();
    backward.weight = weight.weight(), backward.segments = &segment, backward.xa = xa.matrix();
    backward.workspace = workspace.data(), backward.workspace_bytes = workspace.bytes();
    const double base = 2.0 * static_cast<double>(tokens * in * out);
    const double adapter = 2.0 * static_cast<double>(tokens * kRank * (in + out));
    for (const int32_t count : {0, 1}) {
      forward.segment_count = backward.segment_count = count;
      const std::string end = std::string(" x ") + storage.name + (count ? " r16" : "");
      row("forward" + end, name, base + count * adapter,
          [&] { ops::linear_forward(*device, forward); });
      row("backward" + end, name, base + 2 * count * adapter,
          [&] { ops::linear_backward(*device, backward); });
    }
  }

  void head(int64_t tokens, int64_t hidden, int64_t vocabulary, const StorageCase& storage) const {
    TestMatrix x(device, tokens, hidden, dtype, 1), d_x(device, tokens, hidden, dtype, 2);
    TestWeight weight(device, vocabulary, hidden, storage.storage, false, 3, 0.3);
    std::vector<int32_t> rows, targets;
    for (int32_t i = 0; i < tokens; ++i) {
      rows.push_back(i);
      targets.push_back((i * 977) % static_cast<int32_t>(vocabulary));
    }
    std::vector<float> weights(rows.size(), 1.0f / static_cast<float>(tokens)),
        logprob(rows.size());
    HeadLossShape shape;
    shape.labelled = tokens, shape.hidden = hidden, shape.vocabulary = vocabulary;
    shape.backward = true, shape.activation = dtype, shape.storage = storage.storage;
    TestWorkspace workspace(device, ops::head_loss_workspace_bytes(*device, shape));
    HeadLoss op;
    op.x = x.matrix(), op.d_x = d_x.matrix(), op.weight = weight.weight();
    op.rows = rows.data(), op.targets = targets.data(), op.weights = weights.data();
    op.count = static_cast<int32_t>(tokens), op.logprob = logprob.data();
    op.workspace = workspace.data(), op.workspace_bytes = workspace.bytes();
    row(std::string("head_loss x ") + storage.name,
        std::to_string(tokens) + " x " + std::to_string(hidden) + " -> " +
            std::to_string(vocabulary),
        4.0 * static_cast<double>(tokens * hidden * vocabulary),
        [&] { ops::head_loss(*device, op); });
  }
};

}  // namespace

int main(int argc, char** argv) {
  DeviceOptions options;
  options.threads = 1;
  options.isa = argc > 1 ? argv[1] : nullptr;
  const std::string dtype = argc > 2 ? argv[2] : "f32";
  try {
    const auto device = Device::open("cpu", options);
    Bench bench{device, dtype == "bf16" ? DType::kBF16 : DType::kF32, argc > 3 ? argv[3] : ""};
    const StorageCase plain = bench.dtype == DType::kBF16 ? kStorages[1] : kStorages[0];
    for (const StorageCase& storage : {plain, kStorages[3]})
      for (const Size& size : kSizes) bench.linear(size, storage);
    bench.head(512, 576, 49152, plain);
    bench.head(128, 1024, 151936, plain);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
