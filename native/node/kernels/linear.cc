#include "ops/linear.h"

#include <algorithm>

#include "node/kernels/kernel_table.h"
#include "ops/embedding.h"
#include "ops/head_loss.h"

namespace lowrank::node {

namespace {

constexpr int64_t kMaxRank = 1 << 20;

// LoRA segments with their arrays; as `LoraSegment` once they stand on the device.
struct Segments {
  struct Arrays {
    const KernelArray *a, *b;
    KernelArray *d_a = nullptr, *d_b = nullptr;
  };
  std::vector<LoraSegment> list;
  std::vector<Arrays> arrays;
  int32_t max_rank = 0;
  bool dropout = false;

  const LoraSegment* on_device() {
    for (size_t i = 0; i < list.size(); ++i) {
      list[i].a = pointer<float>(arrays[i].a);
      list[i].b = pointer<float>(arrays[i].b);
      list[i].d_a = pointer<float>(arrays[i].d_a);
      list[i].d_b = pointer<float>(arrays[i].d_b);
    }
    return list.empty() ? nullptr : list.data();
  }
};

// `lora`: [{a, b, rank, scale, rowBegin?, rowEnd?, dropout?, dropoutKey?}], default all rows.
std::shared_ptr<Segments> read_segments(OptionsReader& args, KernelCall& call, int64_t tokens,
                                        const KernelWeight& weight, bool gradients) {
  auto segments = std::make_shared<Segments>();
  if (!args.has("lora")) return segments;
  const Napi::Value value = args.value("lora");
  if (!value.IsArray()) args.fail("lora", "must be an array");
  const auto list = value.As<Napi::Array>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const std::string index = std::to_string(i);
    OptionsReader fields(list.Get(i), "lora[" + index + "]");
    LoraSegment segment;
    segment.rank = static_cast<int32_t>(fields.integer("rank", 1, kMaxRank));
    segment.scale = static_cast<float>(fields.number("scale"));
    segment.row_end = tokens;
    if (fields.has("rowBegin")) segment.row_begin = fields.integer("rowBegin", 0, tokens);
    if (fields.has("rowEnd")) segment.row_end = fields.integer("rowEnd", 0, tokens);
    if (fields.has("dropout")) segment.dropout = static_cast<float>(fields.number("dropout"));
    if (fields.has("dropoutKey")) {
      segment.dropout_key = static_cast<uint64_t>(
          fields.integer("dropoutKey", 0, static_cast<int64_t>(kMaxSafeInteger)));
    }
    Segments::Arrays arrays;
    arrays.a = call.vector(fields, "a", DType::kF32, segment.rank * weight.cols);
    arrays.b = call.vector(fields, "b", DType::kF32, weight.rows * segment.rank);
    fields.finish();
    if (gradients) {
      arrays.d_a = call.output(("d_a_" + index).c_str(), DType::kF32, segment.rank, weight.cols);
      arrays.d_b = call.output(("d_b_" + index).c_str(), DType::kF32, weight.rows, segment.rank);
    }
    segments->max_rank = std::max(segments->max_rank, segment.rank);
    segments->dropout = segments->dropout || segment.dropout > 0;
    segments->list.push_back(segment);
    segments->arrays.push_back(arrays);
  }
  return segments;
}

LinearShape shape_of(int64_t tokens, const KernelWeight& weight, const Segments& segments,
                     DType activation, bool backward) {
  return {.tokens = tokens,
          .in = weight.cols,
          .out = weight.rows,
          .max_rank = segments.max_rank,
          .segment_count = static_cast<int32_t>(segments.list.size()),
          .dropout = segments.dropout,
          .backward = backward,
          .activation = activation,
          .storage = weight.storage};
}

}  // namespace

void read_linear_forward(OptionsReader& args, KernelCall& call) {
  const KernelArray* x = call.matrix(args, "x");
  const KernelWeight weight = call.weight(args, "weight");
  const KernelArray* bias = call.optional(args, "bias", DType::kF32, weight.rows);
  const KernelArray* residual = args.has("residual") ? call.matrix(args, "residual") : nullptr;
  const auto segments = read_segments(args, call, x->rows, weight, false);
  const KernelArray* y = call.output("y", x->dtype, x->rows, weight.rows);
  const KernelArray* xa =
      segments->list.empty() ? nullptr : call.output("xa", x->dtype, x->rows, segments->max_rank);
  call.build = [=, &call](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    auto op = std::make_shared<LinearForward>();
    op->x = x->matrix();
    op->y = y->matrix();
    op->weight = weight.weight();
    op->bias = pointer<float>(bias);
    op->segments = segments->on_device();
    op->segment_count = static_cast<int32_t>(segments->list.size());
    if (xa) op->xa = xa->matrix();
    op->workspace_bytes =
        ops::linear_workspace_bytes(*device, shape_of(x->rows, weight, *segments, x->dtype, false));
    op->workspace = call.workspace(device, op->workspace_bytes);
    return [op, device, residual, segments] {
      const Matrix matrix = residual ? residual->matrix() : Matrix{};
      op->residual = residual ? &matrix : nullptr;
      ops::linear_forward(*device, *op);
    };
  };
}

void read_linear_backward(OptionsReader& args, KernelCall& call) {
  const KernelArray* x = args.has("x") ? call.matrix(args, "x") : nullptr;
  const KernelArray* d_y = call.matrix(args, "dY");
  const KernelWeight weight = call.weight(args, "weight");
  const auto segments = read_segments(args, call, d_y->rows, weight, true);
  const KernelArray* xa = args.has("xa") ? call.matrix(args, "xa") : nullptr;
  const KernelArray* d_x = call.output("d_x", d_y->dtype, d_y->rows, weight.cols);
  const bool full = args.has("weightGradient") && args.boolean("weightGradient");
  const KernelArray* d_weight =
      full ? call.output("d_weight", DType::kF32, weight.rows, weight.cols) : nullptr;
  const KernelArray* d_bias = full ? call.output("d_bias", DType::kF32, 1, weight.rows) : nullptr;
  call.build = [=, &call](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    auto op = std::make_shared<LinearBackward>();
    if (x) op->x = x->matrix();
    op->d_y = d_y->matrix();
    op->d_x = d_x->matrix();
    op->weight = weight.weight();
    op->d_weight = pointer<float>(d_weight);
    op->d_bias = pointer<float>(d_bias);
    op->segments = segments->on_device();
    op->segment_count = static_cast<int32_t>(segments->list.size());
    if (xa) op->xa = xa->matrix();
    op->workspace_bytes = ops::linear_workspace_bytes(
        *device, shape_of(d_y->rows, weight, *segments, d_y->dtype, true));
    op->workspace = call.workspace(device, op->workspace_bytes);
    return [op, device, segments] { ops::linear_backward(*device, *op); };
  };
}

void read_embedding_forward(OptionsReader& args, KernelCall& call) {
  const KernelArray* ids = call.vector(args, "ids", DType::kI32);
  const KernelWeight weight = call.weight(args, "weight");
  const DType dtype =
      args.has("dtype")
          ? args.choice<DType>("dtype", {{"f32", DType::kF32}, {"bf16", DType::kBF16}})
          : DType::kF32;
  const KernelArray* y = call.output("y", dtype, ids->count(), weight.cols);
  call.build = [=](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    return [=] {
      ops::embedding_forward(
          *device, {.ids = pointer<int32_t>(ids), .weight = weight.weight(), .y = y->matrix()});
    };
  };
}

void read_head_loss(OptionsReader& args, KernelCall& call) {
  const KernelArray* x = call.matrix(args, "x");
  const KernelWeight weight = call.weight(args, "weight");
  const KernelArray* bias = call.optional(args, "bias", DType::kF32, weight.rows);
  const KernelArray* rows = call.vector(args, "rows", DType::kI32);
  const int64_t count = rows->count();
  const KernelArray* targets = call.vector(args, "targets", DType::kI32, count);
  const KernelArray* weights = call.optional(args, "weights", DType::kF32, count);
  const bool full = args.has("weightGradient") && args.boolean("weightGradient");
  const KernelArray* d_x = weights ? call.output("d_x", x->dtype, x->rows, x->cols) : nullptr;
  const KernelArray* d_weight =
      full ? call.output("d_weight", DType::kF32, weight.rows, weight.cols) : nullptr;
  const KernelArray* logprob = call.output("logprob", DType::kF32, 1, count);
  const KernelArray* correct = call.output("correct", DType::kU8, 1, count);
  call.build = [=, &call](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    auto op = std::make_shared<HeadLoss>();
    op->x = x->matrix();
    if (d_x) op->d_x = d_x->matrix();
    op->rows = pointer<int32_t>(rows);
    op->targets = pointer<int32_t>(targets);
    op->weights = pointer<float>(weights);
    op->count = static_cast<int32_t>(count);
    op->weight = weight.weight();
    op->bias = pointer<float>(bias);
    op->d_weight = pointer<float>(d_weight);
    op->logprob = pointer<float>(logprob);
    op->correct = pointer<uint8_t>(correct);
    op->workspace_bytes = ops::head_loss_workspace_bytes(*device, {.labelled = count,
                                                                   .hidden = weight.cols,
                                                                   .vocabulary = weight.rows,
                                                                   .backward = d_x || d_weight,
                                                                   .activation = x->dtype,
                                                                   .storage = weight.storage});
    op->workspace = call.workspace(device, op->workspace_bytes);
    return [op, device] { ops::head_loss(*device, *op); };
  };
}

}  // namespace lowrank::node
