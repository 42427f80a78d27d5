// The linear op with and without an adapter, over a plain and an NF4 weight, and the fused head,
// against the product peak of as many threads. What is compared is called in turn.
//   linear_bench [isa] [dtype] [numbers of threads, as 1,2] [only ops whose name contains this]
//                [only sizes whose name contains this] [elements between the end of a row and the
//                next]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
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
constexpr Size kSizes[] = {
    {"135m kv", 512, 576, 192},      {"135m q", 512, 576, 576},    {"135m up", 512, 576, 1536},
    {"135m down", 512, 1536, 576},   {"0.6b q", 1024, 1024, 2048}, {"0.6b up", 1024, 1024, 3072},
    {"0.6b down", 1024, 3072, 1024}, {"1.7b up", 512, 2048, 6144}, {"8b q", 512, 4096, 4096},
    {"8b kv", 512, 4096, 1024},      {"8b up", 512, 4096, 14336}};

// What one weight's ops need.
struct Linear {
  Linear(const std::shared_ptr<Device>& device, const Size& size, DType dtype,
         const StorageCase& storage, int64_t padding)
      : x(device, size.tokens, size.in, dtype, 1, 1, padding),
        y(device, size.tokens, size.out, dtype, 2, 1, padding),
        d_y(device, size.tokens, size.out, dtype, 3, 1, padding),
        d_x(device, size.tokens, size.in, dtype, 4, 1, padding),
        xa(device, size.tokens, kRank, dtype, 5, 1, 0),
        weight(device, size.out, size.in, storage.storage, storage.double_quant, 6, 0.3),
        a(device, kRank * size.in, 7, 0.1),
        b(device, size.out * kRank, 8, 0.1),
        d_a(device, kRank * size.in, 9, 0),
        d_b(device, size.out * kRank, 10, 0) {
    segment.row_end = size.tokens, segment.rank = kRank, segment.scale = 2;
    segment.a = a.data(), segment.b = b.data();
    segment.d_a = d_a.data(), segment.d_b = d_b.data();
    forward.x = x.matrix(), forward.y = y.matrix(), forward.weight = weight.weight();
    forward.segments = &segment, forward.xa = xa.matrix();
    backward.x = x.matrix(), backward.d_y = d_y.matrix(), backward.d_x = d_x.matrix();
    backward.weight = weight.weight(), backward.segments = &segment, backward.xa = xa.matrix();
    LinearShape shape;
    shape.tokens = size.tokens, shape.in = size.in, shape.out = size.out;
    shape.max_rank = kRank, shape.segment_count = 1;
    shape.activation = dtype, shape.storage = storage.storage;
    size_t bytes = ops::linear_workspace_bytes(*device, shape);
    shape.backward = true;
    bytes = std::max(bytes, ops::linear_workspace_bytes(*device, shape));
    workspace = Buffer(device, bytes);
    forward.workspace = backward.workspace = workspace.data();
    forward.workspace_bytes = backward.workspace_bytes = bytes;
  }

  TestMatrix x, y, d_y, d_x, xa;
  TestWeight weight;
  TestVector a, b, d_a, d_b;
  Buffer workspace;
  LoraSegment segment;
  LinearForward forward;
  LinearBackward backward;
};

// One thing to time, and the one before it that its time is set against.
struct Variant {
  std::string op;
  double flops = 0;
  std::function<void()> run;
  int base = -1;
};

struct Bench {
  std::shared_ptr<Device> device;
  DType dtype;
  std::string only, only_size;
  int64_t padding = 0;

  // Prints the median of what the variants took in turn in calm windows. times_base compares calls
  // that followed each other.
  void rows(const std::string& size, const std::vector<Variant>& variants) const {
    std::vector<std::function<void()>> bodies;
    for (const Variant& variant : variants) bodies.push_back(variant.run);
    const bench::CalmTimes times = bench::measure_calm(*device, dtype, bodies);
    for (size_t i = 0; i < variants.size(); ++i) {
      const Variant& variant = variants[i];
      if (variant.op.find(only) == std::string::npos) continue;
      const std::vector<double>& seconds = times.seconds[i];
      const double median = bench::quantile(seconds, 0.5), rate = variant.flops / median;
      bench::Row row;
      row.text("op", variant.op).text("size", size).text("isa", device->info().isa);
      row.text("dtype", dtype_name(dtype)).number("threads", device->info().threads);
      row.number("calls", static_cast<double>(seconds.size())).number("calm", times.calm);
      row.number("seconds", median).number("seconds_p10", bench::quantile(seconds, 0.1));
      row.number("gflops", rate * 1e-9).number("share_of_peak", rate / times.peak);
      if (variant.base >= 0) {
        std::vector<double> ratios(seconds);
        for (size_t j = 0; j < ratios.size(); ++j)
          ratios[j] /= times.seconds[static_cast<size_t>(variant.base)][j];
        row.number("times_base", bench::quantile(ratios, 0.5));
      }
      row.print();
    }
  }

  void linear(const Size& size, const StorageCase& plain) const {
    if (std::string(size.name).find(only_size) == std::string::npos) return;
    const double base = 2.0 * static_cast<double>(size.tokens * size.in * size.out);
    const double adapter = 2.0 * static_cast<double>(size.tokens * kRank * (size.in + size.out));
    const StorageCase storages[] = {plain, kStorages[3]};
    Linear weights[] = {{device, size, dtype, plain, padding},
                        {device, size, dtype, kStorages[3], padding}};
    std::vector<Variant> variants;
    for (int i = 0; i < 2; ++i)
      for (const int count : {0, 1}) {
        Linear& w = weights[i];
        const std::string end = std::string(" x ") + storages[i].name + (count ? " r16" : "");
        // An adapter is set against the same weight without one, NF4 against plain.
        const int less = count ? 2 : i ? 4 : 0;
        const int at = static_cast<int>(variants.size());
        variants.push_back({"forward" + end, base + count * adapter,
                            [this, &w, count] {
                              w.forward.segment_count = count;
                              ops::linear_forward(*device, w.forward);
                            },
                            less ? at - less : -1});
        variants.push_back({"backward" + end, base + 2 * count * adapter,
                            [this, &w, count] {
                              w.backward.segment_count = count;
                              ops::linear_backward(*device, w.backward);
                            },
                            less ? at + 1 - less : -1});
      }
    rows(size.name, variants);
  }

  void head(int64_t tokens, int64_t hidden, int64_t vocabulary, const StorageCase& storage) const {
    const std::string name = std::string("head_loss x ") + storage.name;
    const std::string size = std::to_string(tokens) + " x " + std::to_string(hidden) + " -> " +
                             std::to_string(vocabulary);
    if (name.find(only) == std::string::npos || size.find(only_size) == std::string::npos) return;
    TestMatrix x(device, tokens, hidden, dtype, 1, 1, 0), d_x(device, tokens, hidden, dtype, 2);
    TestWeight weight(device, vocabulary, hidden, storage.storage, false, 3, 0.3);
    std::vector<int32_t> labelled, targets;
    for (int32_t i = 0; i < tokens; ++i) {
      labelled.push_back(i);
      targets.push_back((i * 977) % static_cast<int32_t>(vocabulary));
    }
    std::vector<float> weights(labelled.size(), 1.0f / static_cast<float>(tokens)),
        logprob(labelled.size());
    HeadLossShape shape;
    shape.labelled = tokens, shape.hidden = hidden, shape.vocabulary = vocabulary;
    shape.backward = true, shape.activation = dtype, shape.storage = storage.storage;
    TestWorkspace workspace(device, ops::head_loss_workspace_bytes(*device, shape));
    HeadLoss op;
    op.x = x.matrix(), op.d_x = d_x.matrix(), op.weight = weight.weight();
    op.rows = labelled.data(), op.targets = targets.data(), op.weights = weights.data();
    op.count = static_cast<int32_t>(tokens), op.logprob = logprob.data();
    op.workspace = workspace.data(), op.workspace_bytes = workspace.bytes();
    rows(size, {{name, 4.0 * static_cast<double>(tokens * hidden * vocabulary),
                 [&] { ops::head_loss(*device, op); }}});
  }
};

}  // namespace

int main(int argc, char** argv) {
  const std::string dtype = argc > 2 ? argv[2] : "f32";
  const char* threads = argc > 3 ? argv[3] : "1";
  try {
    for (const char* at = threads; *at;) {
      char* end = nullptr;
      DeviceOptions options;
      options.isa = argc > 1 ? argv[1] : nullptr;
      options.threads = static_cast<int32_t>(std::strtol(at, &end, 10));
      if (end == at) throw Error(ErrorCode::kInvalidArgument, "numbers of threads: as 1,2");
      at = *end ? end + 1 : end;
      const Bench bench{Device::open("cpu", options), dtype == "bf16" ? DType::kBF16 : DType::kF32,
                        argc > 4 ? argv[4] : "", argc > 5 ? argv[5] : "",
                        argc > 6 ? std::atol(argv[6]) : 0};
      const StorageCase plain = bench.dtype == DType::kBF16 ? kStorages[1] : kStorages[0];
      for (const Size& size : kSizes) bench.linear(size, plain);
      bench.head(512, 576, 49152, plain);
      bench.head(128, 1024, 151936, plain);
      bench.head(1024, 1024, 32768, plain);
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
