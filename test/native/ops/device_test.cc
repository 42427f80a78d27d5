#include "backend/device.h"
#include "core/error.h"
#include "ops/rms_norm.h"
#include "support/test.h"

using namespace lowrank;

TEST(reference_backend_runs_rms_norm) {
  DeviceOptions options;
  options.isa = "reference";
  options.threads = 1;
  const auto device = Device::open("cpu", options);
  float x[2] = {3, 4}, y[2] = {}, w[2] = {1, 2}, rstd[1];
  RmsNormForward op;
  op.x = {x, DType::kF32, 1, 2, 2};
  op.y = {y, DType::kF32, 1, 2, 2};
  op.weight = w;
  op.eps = 0;
  op.rstd = rstd;
  ops::rms_norm_forward(*device, op);
  CHECK_NEAR(y[0], 3 / std::sqrt(12.5), 1e-6);
  CHECK_NEAR(y[1], 8 / std::sqrt(12.5), 1e-6);
  op.y.cols = 1;
  CHECK_ERROR(ops::rms_norm_forward(*device, op), ErrorCode::kInvalidArgument,
              "[rms_norm_forward] y is [1, 1], expected [1, 2]");
}
TEST(isa_requests) {
  DeviceOptions options;
  options.isa = "neon";
  CHECK_ERROR(Device::open("cpu", options), ErrorCode::kBackend, "neon");
  options.isa = nullptr;
  std::printf("%s: %s\n", Device::open("cpu", options)->info().name, Device::open("cpu", options)->info().isa);
}
