#include "ops/cast.h"

#include "ops/check.h"

namespace lowrank::ops {
namespace {

void check_float(const char* op, const char* name, DType dtype) {
  if (dtype != DType::kF32 && dtype != DType::kBF16 && dtype != DType::kF16)
    fail(op, std::string(name) + " is " + dtype_name(dtype) + ", expected f32, bf16 or f16");
}

}  // namespace

void cast(const Device& device, const Cast& op) {
  const char* name = "cast";
  require(op.count >= 0, name, "count is negative");
  check_float(name, "from", op.from_dtype);
  check_float(name, "to", op.to_dtype);
  check_pointer(name, "from", op.from, op.count);
  check_pointer(name, "to", op.to, op.count);
  const auto matrix = [&](const void* data, DType dtype) {
    return Matrix{const_cast<void*>(data), dtype, 1, op.count, op.count};
  };
  check_disjoint(name, "to", matrix(op.to, op.to_dtype), "from", matrix(op.from, op.from_dtype));
  device.check(device.backend().cast(device.handle(), &op), name);
}

void dequantize(const Device& device, const Dequantize& op) {
  const char* name = "dequantize";
  check_weight(name, "weight", op.weight, op.weight.rows, op.weight.cols);
  check_float(name, "to", op.to_dtype);
  check_pointer(name, "to", op.to, op.weight.rows * op.weight.cols);
  device.check(device.backend().dequantize(device.handle(), &op), name);
}

void quantize_nf4(const Device& device, const QuantizeNf4& op) {
  const char* name = "quantize_nf4";
  require(op.count >= 0, name, "count is negative");
  check_float(name, "from", op.from_dtype);
  check_pointer(name, "from", op.from, op.count);
  check_pointer(name, "codes", op.codes, op.count);
  check_pointer(name, "absmax", op.absmax, op.count);
  device.check(device.backend().quantize_nf4(device.handle(), &op), name);
}

void quantize_absmax(const Device& device, const QuantizeAbsmax& op) {
  const char* name = "quantize_absmax";
  require(op.count > 0, name, "count isn't positive");
  check_pointer(name, "absmax", op.absmax);
  check_pointer(name, "codes", op.codes);
  check_pointer(name, "nested_absmax", op.nested_absmax);
  check_pointer(name, "offset", op.offset);
  device.check(device.backend().quantize_absmax(device.handle(), &op), name);
}

}  // namespace lowrank::ops
