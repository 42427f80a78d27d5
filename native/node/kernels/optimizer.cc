#include "node/kernels/kernel_table.h"
#include "ops/adamw.h"
#include "ops/cast.h"
#include "ops/squared_norm.h"

namespace lowrank::node {

namespace {

int64_t ceil_divide(int64_t count, int64_t by) { return (count + by - 1) / by; }

DType read_float(OptionsReader& args, const char* key) {
  return args.choice<DType>(key,
                            {{"f32", DType::kF32}, {"bf16", DType::kBF16}, {"f16", DType::kF16}});
}

}  // namespace

void read_adamw(OptionsReader& args, KernelCall& call) {
  KernelArray* parameter = call.vector(args, "parameter", DType::kF32);
  const int64_t count = parameter->count(), blocks = ceil_divide(count, kOptimizerBlock);
  const KernelArray* gradient = call.vector(args, "gradient", DType::kF32, count);
  const bool eight_bit = args.has("mCodes");
  const auto state = [&](const char* key, const char* output, DType dtype, int64_t size) {
    KernelArray* array = call.vector(args, key, dtype, size);
    array->output = output;
    return array;
  };
  parameter->output = "parameter";
  const KernelArray *m = nullptr, *v = nullptr, *m_codes = nullptr, *v_codes = nullptr,
                    *m_absmax = nullptr, *v_absmax = nullptr;
  if (eight_bit) {
    m_codes = state("mCodes", "m_codes", DType::kU8, count);
    v_codes = state("vCodes", "v_codes", DType::kU8, count);
    m_absmax = state("mAbsmax", "m_absmax", DType::kF32, blocks);
    v_absmax = state("vAbsmax", "v_absmax", DType::kF32, blocks);
  } else {
    m = state("m", "m", DType::kF32, count);
    v = state("v", "v", DType::kF32, count);
  }
  const auto number = [&args](const char* key) { return static_cast<float>(args.number(key)); };
  AdamW op;
  op.beta1 = args.number("beta1");
  op.beta2 = args.number("beta2");
  op.eps = args.number("eps");
  op.step = args.integer("step", 1, int64_t{1} << 53);
  op.grad_scale = args.has("gradScale") ? number("gradScale") : 1.0f;
  op.eight_bit = eight_bit;
  op.tensor_count = 1;
  AdamWTensor tensor;
  tensor.count = count;
  tensor.learning_rate = number("learningRate");
  tensor.weight_decay = number("weightDecay");
  call.build = [=](const std::shared_ptr<Device>& device) mutable -> KernelCall::Op {
    tensor.parameter = pointer<float>(parameter);
    tensor.gradient = pointer<float>(gradient);
    tensor.m = pointer<float>(m);
    tensor.v = pointer<float>(v);
    tensor.m_codes = pointer<uint8_t>(m_codes);
    tensor.v_codes = pointer<uint8_t>(v_codes);
    tensor.m_absmax = pointer<float>(m_absmax);
    tensor.v_absmax = pointer<float>(v_absmax);
    return [tensor, op, device]() mutable {
      op.tensors = &tensor;
      ops::adamw(*device, op);
    };
  };
}

void read_squared_norm(OptionsReader& args, KernelCall& call) {
  const KernelArray* x = call.vector(args, "x", DType::kF32);
  static_assert(sizeof(double) == sizeof(int64_t));
  const KernelArray* result = call.scratch(DType::kI64, 1, 1);  // an f64: no array has that type
  call.collect = [&call, result] {
    result->buffer.download(&call.numbers["result"], sizeof(double));
  };
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      const float* const tensor = pointer<float>(x);
      const int64_t count = x->count();
      ops::squared_norm(*device, {.tensors = &tensor,
                                  .counts = &count,
                                  .tensor_count = 1,
                                  .result = pointer<double>(result)});
    };
  };
}

void read_cast(OptionsReader& args, KernelCall& call) {
  const KernelArray* x = call.matrix(args, "x");
  const DType dtype = read_float(args, "dtype");
  const KernelArray* y = call.output("y", dtype, x->rows, x->cols);
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::cast(*device, {.from = x->buffer.data(),
                          .from_dtype = x->dtype,
                          .to = y->buffer.data(),
                          .to_dtype = dtype,
                          .count = x->count()});
    };
  };
}

void read_quantize_nf4(OptionsReader& args, KernelCall& call) {
  const KernelArray* x = call.matrix(args, "x");
  const int64_t count = x->count();
  const KernelArray* codes = call.output("codes", DType::kU8, 1, ceil_divide(count, 2));
  const KernelArray* absmax = call.output("absmax", DType::kF32, 1, ceil_divide(count, kNf4Block));
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::quantize_nf4(*device, {.from = x->buffer.data(),
                                  .from_dtype = x->dtype,
                                  .count = count,
                                  .codes = pointer<uint8_t>(codes),
                                  .absmax = pointer<float>(absmax)});
    };
  };
}

void read_quantize_absmax(OptionsReader& args, KernelCall& call) {
  const KernelArray* absmax = call.vector(args, "absmax", DType::kF32);
  const int64_t count = absmax->count();
  const KernelArray* codes = call.output("codes", DType::kU8, 1, count);
  const KernelArray* nested =
      call.output("nested_absmax", DType::kF32, 1, ceil_divide(count, kNf4NestedBlock));
  auto offset = std::make_shared<float>(0);
  call.collect = [&call, offset] { call.numbers["offset"] = *offset; };
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::quantize_absmax(*device, {.absmax = pointer<float>(absmax),
                                     .count = count,
                                     .codes = pointer<uint8_t>(codes),
                                     .nested_absmax = pointer<float>(nested),
                                     .offset = offset.get()});
    };
  };
}

void read_dequantize(OptionsReader& args, KernelCall& call) {
  const KernelWeight weight = call.weight(args, "weight");
  const DType dtype = read_float(args, "dtype");
  const KernelArray* y = call.output("y", dtype, weight.rows, weight.cols);
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::dequantize(*device,
                      {.weight = weight.weight(), .to = y->buffer.data(), .to_dtype = dtype});
    };
  };
}

}  // namespace lowrank::node
