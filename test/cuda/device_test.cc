// The plug-in's table over the model: what isn't an operation of the shared tests.
#include <vector>

#include "core/error.h"
#include "ops/attention.h"
#include "support/isa_check.h"
#include "support/test.h"

using namespace lowrank;
using namespace lowrank::test;

TEST(a_device_tells_what_it_holds) {
  const auto device = open_cpu("cuda", 1);
  CHECK(device->info().fixed_bytes > (size_t{1} << 20));
  CHECK(device->info().free_bytes > 0);
}

TEST(peaks_are_measured) {
  const auto device = open_cpu("cuda", 1);
  for (PeakKind kind : {PeakKind::kF32Products, PeakKind::kBF16Products, PeakKind::kMemoryRead})
    CHECK(device->peak(kind, 0.001) > 0);
}

TEST(a_launch_that_fails_is_an_error_of_the_device) {
  const auto device = open_cpu("cuda", 1);
  // Heads of 257 elements have no kernel.
  TestMatrix q(device, 2, 257, DType::kF32, 1), k(device, 2, 257, DType::kF32, 2);
  TestMatrix v(device, 2, 257, DType::kF32, 3), out(device, 2, 257, DType::kF32, 4);
  TestIndices offsets(device, {0, 2});
  AttentionForward op;
  op.q = q.matrix();
  op.k = k.matrix();
  op.v = v.matrix();
  op.out = out.matrix();
  op.q_offsets = op.k_offsets = offsets.data();
  op.documents = op.heads = op.kv_heads = 1;
  op.head_dim = 257;
  CHECK_ERROR(ops::attention_forward(*device, op), ErrorCode::kBackend, "more than 256 elements");
}

TEST(a_list_that_is_too_long_is_an_error) {
  const auto device = open_cpu("cuda", 1);
  TestVector values(device, 1, 1);
  AdamWTensor tensor;
  tensor.parameter = tensor.gradient = tensor.m = tensor.v = values.data();
  tensor.count = 1;
  const std::vector<AdamWTensor> tensors(20000, tensor);
  AdamW op;
  op.tensors = tensors.data();
  op.tensor_count = static_cast<int32_t>(tensors.size());
  CHECK_ERROR(device->check(device->backend().adamw(device->handle(), &op), "adamw"),
              ErrorCode::kBackend, "too long");
}
