// Opening a CPU device, choosing its instruction set, and its memory.
#include <cstdint>
#include <cstdlib>

#include "backend/device.h"
#include "core/error.h"
#include "cpu/isa.h"
#include "ops/cast.h"
#include "ops/rms_norm.h"
#include "support/isa_check.h"
#include "support/test.h"

using namespace lowrank;
using namespace lowrank::test;

TEST(reference_backend_runs_rms_norm) {
  const auto device = open_cpu("reference", 1);
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

TEST(instruction_set_requests) {
  DeviceOptions options;
  options.threads = 1;
  std::string unavailable;
  for (cpu::Isa isa : cpu::kAllIsas) {
    options.isa = cpu::isa_name(isa);
    if (cpu::isa_available(isa))
      CHECK_EQ(std::string(Device::open("cpu", options)->info().isa), options.isa);
    else
      CHECK_ERROR(Device::open("cpu", options), ErrorCode::kBackend,
                  std::string("can't run the ") + options.isa);
  }
  options.isa = "sse9";
  CHECK_ERROR(Device::open("cpu", options), ErrorCode::kBackend, "unknown instruction set 'sse9'");

  // The environment lowers the level; an explicit request comes first.
  options.isa = nullptr;
  CHECK_EQ(std::string(Device::open("cpu", options)->info().isa), isa_name(cpu::best_isa()));
  ::setenv("LOWRANK_ISA", "reference", 1);
  CHECK_EQ(std::string(Device::open("cpu", options)->info().isa), "reference");
  options.isa = cpu::isa_name(cpu::best_isa());
  CHECK_EQ(std::string(Device::open("cpu", options)->info().isa), options.isa);
  options.isa = nullptr;
  ::setenv("LOWRANK_ISA", "none", 1);
  CHECK_ERROR(Device::open("cpu", options), ErrorCode::kBackend, "'none'");
  ::unsetenv("LOWRANK_ISA");
}

TEST(device_describes_itself) {
  const DeviceInfo info = open_cpu("reference", 3)->info();
  CHECK_EQ(info.threads, 3);
  CHECK(info.total_bytes > 0);
  CHECK(info.free_bytes > 0);
  CHECK(info.fixed_bytes >= 3 * 1024);
}

TEST(device_opens_the_best_instruction_set) {
  const auto device = Device::open("cpu", {});
  const char* wanted = std::getenv("LOWRANK_ISA");
  CHECK_EQ(std::string(device->info().isa), wanted ? wanted : cpu::isa_name(cpu::best_isa()));
  std::printf("  %s; this machine runs %s\n", device->info().isa, cpu::isa_name(cpu::best_isa()));
}

// Small buffers come from the heap, large ones from the page allocator.
TEST(buffers_are_aligned_and_zero) {
  const auto device = open_cpu("reference", 1);
  for (size_t bytes : {size_t{1}, size_t{100}, (size_t{256} << 10) - 1, size_t{1} << 20}) {
    for (int round = 0; round < 3; ++round) {
      Buffer buffer(device, bytes);
      uint8_t* data = buffer.as<uint8_t>();
      CHECK_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
      size_t nonzero = 0;
      for (size_t i = 0; i < bytes; ++i) nonzero += data[i] != 0;
      CHECK_EQ(nonzero, 0u);
      const uint8_t value = 7;
      buffer.upload(&value, 1, bytes - 1);
      CHECK_EQ(int{data[bytes - 1]}, 7);
      buffer.zero();
      CHECK_EQ(int{data[bytes - 1]}, 0);
    }
  }
  CHECK_ERROR(Buffer(device, size_t{1} << 60), ErrorCode::kOutOfMemory, "cannot allocate");
}

TEST(overlapping_operands_are_refused) {
  const auto device = open_cpu("reference", 1);
  float memory[64] = {};
  // Two halves of every row of one wider matrix don't overlap.
  RmsNormForward op;
  const float weight[4] = {1, 1, 1, 1};
  op.weight = weight;
  op.x = {memory, DType::kF32, 4, 4, 8};
  op.y = {memory + 4, DType::kF32, 4, 4, 8};
  ops::rms_norm_forward(*device, op);
  op.y.data = memory + 3;
  CHECK_ERROR(ops::rms_norm_forward(*device, op), ErrorCode::kInvalidArgument, "y overlaps x");
  op.y.data = memory + 5;
  CHECK_ERROR(ops::rms_norm_forward(*device, op), ErrorCode::kInvalidArgument, "y overlaps x");
  op.y = {memory + 4, DType::kF32, 4, 4, 4};
  CHECK_ERROR(ops::rms_norm_forward(*device, op), ErrorCode::kInvalidArgument, "y overlaps x");
  CHECK_ERROR(ops::cast(*device, {memory, DType::kF32, memory + 4, DType::kBF16, 5}),
              ErrorCode::kInvalidArgument, "to overlaps from");
  CHECK_ERROR(ops::cast(*device, {memory, DType::kI32, memory + 9, DType::kBF16, 5}),
              ErrorCode::kInvalidArgument, "from is i32");
}
