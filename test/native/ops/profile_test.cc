// Time by operation (backend/profile.h), and measured peaks.
#include <string>
#include <vector>

#include "backend/profile.h"
#include "core/error.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"
#include "support/isa_check.h"
#include "support/test.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

Matrix matrix(std::vector<float>& values, int64_t rows) {
  const int64_t cols = static_cast<int64_t>(values.size()) / rows;
  return {values.data(), DType::kF32, rows, cols, cols};
}

// One product 4 x 8 -> 6 with an adapter of rank 2; returns y.
std::vector<float> run_linear(const std::shared_ptr<Device>& device) {
  std::vector<float> x(4 * 8), w(6 * 8), y(4 * 6), a(2 * 8), b(6 * 2), xa(4 * 2);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7) - 3;
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 5) - 2;
  for (size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i % 3);
  for (size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i % 2);
  LoraSegment segment;
  segment.row_end = 4, segment.a = a.data(), segment.b = b.data(), segment.rank = 2;
  LinearForward op;
  op.x = matrix(x, 4), op.y = matrix(y, 4), op.xa = matrix(xa, 4);
  op.weight.data = w.data(), op.weight.rows = 6, op.weight.cols = 8;
  op.segments = &segment, op.segment_count = 1;
  LinearShape shape;
  shape.tokens = 4, shape.in = 8, shape.out = 6, shape.max_rank = 2, shape.segment_count = 1;
  Buffer workspace(device, ops::linear_workspace_bytes(*device, shape));
  op.workspace = workspace.data(), op.workspace_bytes = workspace.bytes();
  ops::linear_forward(*device, op);
  return y;
}

}  // namespace

TEST(a_profiled_device_computes_the_same_and_counts_work) {
  DeviceOptions options;
  options.threads = 1;
  const auto device = open_profiled("cpu", options);
  const std::vector<float> y = run_linear(device);
  CHECK(y == run_linear(Device::open("cpu", options)));
  run_linear(device);

  const std::vector<ProfileRow> rows = take_profile(*device);
  CHECK_EQ(rows.size(), size_t{1});
  CHECK_EQ(rows[0].op, "linear_forward");
  CHECK_EQ(rows[0].shape, "4 x 8 -> 6 f32 x f32 r2");
  CHECK_EQ(rows[0].calls, int64_t{2});
  CHECK_EQ(rows[0].flops, 2.0 * (2 * 4 * 8 * 6 + 2 * 4 * 2 * (8 + 6)));
  CHECK_EQ(rows[0].bytes, 2.0 * 4 * (6 * 8 + 4 * 8 + 4 * 6));
  CHECK(rows[0].seconds > 0);
  CHECK(take_profile(*device).empty());
}

TEST(a_profiled_device_passes_errors_on) {
  const auto device = open_profiled("cpu");
  float x[2] = {3, 4}, y[2] = {}, w[2] = {1, 2};
  RmsNormForward op;
  op.x = {x, DType::kF32, 1, 2, 2};
  op.y = {y, DType::kF32, 1, 1, 2};
  op.weight = w;
  CHECK_ERROR(ops::rms_norm_forward(*device, op), ErrorCode::kInvalidArgument, "y is [1, 1]");
  CHECK_ERROR(open_profiled("abacus"), ErrorCode::kInvalidArgument, "abacus");
}

TEST(other_devices_have_no_profile) { CHECK(take_profile(*Device::open("cpu")).empty()); }

TEST(peaks_are_measured_on_every_instruction_set) {
  std::vector<std::string> isas = fast_isas();
  isas.push_back("reference");
  for (const std::string& isa : isas) {
    const auto device = open_cpu(isa, 1);
    for (const PeakKind kind :
         {PeakKind::kF32Products, PeakKind::kBF16Products, PeakKind::kMemoryRead})
      CHECK(device->peak(kind, 0.01) > 1e6);
  }
}
