#include <limits>

#include "node/kernels/kernel_table.h"
#include "ops/embedding.h"
#include "ops/gated_activation.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"

namespace lowrank::node {

namespace {

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

int32_t read_int32(OptionsReader& args, const char* key, int64_t min) {
  return static_cast<int32_t>(args.integer(key, min, kMaxInt32));
}

Activation read_activation(OptionsReader& args) {
  if (!args.has("activation")) return Activation::kSilu;
  return args.choice<Activation>("activation", {{"silu", Activation::kSilu},
                                                {"gelu", Activation::kGelu},
                                                {"gelu_tanh", Activation::kGeluTanh},
                                                {"relu", Activation::kRelu}});
}

}  // namespace

void read_rms_norm_forward(OptionsReader& args, KernelCall& call) {
  const KernelArray* x = call.matrix(args, "x");
  const KernelArray* weight = call.vector(args, "weight", DType::kF32, x->cols);
  const auto eps = static_cast<float>(args.number("eps"));
  const KernelArray* y = call.output("y", x->dtype, x->rows, x->cols);
  const KernelArray* rstd = call.output("rstd", DType::kF32, 1, x->rows);
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::rms_norm_forward(*device, {.x = x->matrix(),
                                      .y = y->matrix(),
                                      .weight = pointer<float>(weight),
                                      .eps = eps,
                                      .rstd = pointer<float>(rstd)});
    };
  };
}

void read_rms_norm_backward(OptionsReader& args, KernelCall& call) {
  const KernelArray* x = call.matrix(args, "x");
  const KernelArray* d_y = call.matrix(args, "dY");
  const KernelArray* weight = call.vector(args, "weight", DType::kF32, x->cols);
  const KernelArray* rstd = call.vector(args, "rstd", DType::kF32, x->rows);
  const KernelArray* d_x = call.output("d_x", x->dtype, x->rows, x->cols);
  const KernelArray* d_weight = call.output("d_weight", DType::kF32, 1, x->cols);
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::rms_norm_backward(*device, {.x = x->matrix(),
                                       .d_y = d_y->matrix(),
                                       .d_x = d_x->matrix(),
                                       .weight = pointer<float>(weight),
                                       .d_weight = pointer<float>(d_weight),
                                       .rstd = pointer<float>(rstd)});
    };
  };
}

void read_rope(OptionsReader& args, KernelCall& call) {
  KernelArray* x = call.matrix(args, "x");
  x->output = "y";  // in place
  const int32_t heads = read_int32(args, "heads", 1);
  const int32_t head_dim = read_int32(args, "headDim", 1);
  const int32_t rotary_dim = args.has("rotaryDim") ? read_int32(args, "rotaryDim", 2) : head_dim;
  const KernelArray* positions = call.vector(args, "positions", DType::kI32, x->rows);
  const KernelArray* cos = call.vector(args, "cos", DType::kF32);
  const KernelArray* sin = call.vector(args, "sin", DType::kF32, cos->count());
  const int64_t table_rows = cos->count() / (rotary_dim / 2);
  const auto* wanted = reinterpret_cast<const int32_t*>(positions->host.data());
  for (int64_t i = 0; i < positions->count(); ++i) {
    if (wanted[i] < 0 || wanted[i] >= table_rows) {
      args.fail("positions", "has a row that cos and sin don't have");
    }
  }
  const bool inverse = args.has("inverse") && args.boolean("inverse");
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::rope(*device, {.x = x->matrix(),
                          .heads = heads,
                          .head_dim = head_dim,
                          .rotary_dim = rotary_dim,
                          .positions = pointer<int32_t>(positions),
                          .cos = pointer<float>(cos),
                          .sin = pointer<float>(sin),
                          .inverse = inverse});
    };
  };
}

void read_gated_activation_forward(OptionsReader& args, KernelCall& call) {
  const KernelArray* gate = call.matrix(args, "gate");
  const KernelArray* up = call.matrix(args, "up");
  const Activation activation = read_activation(args);
  const KernelArray* y = call.output("y", gate->dtype, gate->rows, gate->cols);
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::gated_activation_forward(
          *device,
          {.gate = gate->matrix(), .up = up->matrix(), .y = y->matrix(), .activation = activation});
    };
  };
}

void read_gated_activation_backward(OptionsReader& args, KernelCall& call) {
  const KernelArray* gate = call.matrix(args, "gate");
  const KernelArray* up = call.matrix(args, "up");
  const KernelArray* d_y = call.matrix(args, "dY");
  const Activation activation = read_activation(args);
  const KernelArray* d_gate = call.output("d_gate", gate->dtype, gate->rows, gate->cols);
  const KernelArray* d_up = call.output("d_up", gate->dtype, gate->rows, gate->cols);
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::gated_activation_backward(*device, {.gate = gate->matrix(),
                                               .up = up->matrix(),
                                               .d_y = d_y->matrix(),
                                               .d_gate = d_gate->matrix(),
                                               .d_up = d_up->matrix(),
                                               .activation = activation});
    };
  };
}

void read_embedding_backward(OptionsReader& args, KernelCall& call) {
  const KernelArray* ids = call.vector(args, "ids", DType::kI32);
  const KernelArray* d_y = call.matrix(args, "dY");
  const int64_t vocabulary = args.integer("vocabulary", 1, kMaxInt32);
  if (d_y->rows != ids->count()) args.fail("dY", "must have one row per id");
  const auto* wanted = reinterpret_cast<const int32_t*>(ids->host.data());
  for (int64_t i = 0; i < ids->count(); ++i) {
    if (wanted[i] < 0 || wanted[i] >= vocabulary)
      args.fail("ids", "has an id outside the vocabulary");
  }
  const KernelArray* d_weight = call.output("d_weight", DType::kF32, vocabulary, d_y->cols);
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::embedding_backward(*device, {.ids = pointer<int32_t>(ids),
                                        .d_y = d_y->matrix(),
                                        .d_weight = pointer<float>(d_weight)});
    };
  };
}

}  // namespace lowrank::node
