#include "ops/attention.h"

#include <limits>

#include "node/kernels/kernel_table.h"

namespace lowrank::node {

namespace {

struct AttentionArguments {
  const KernelArray *q, *k, *v, *q_offsets, *k_offsets;
  int32_t heads, kv_heads, head_dim, window;
  float scale;

  AttentionShape shape(bool backward) const {
    return {.query_tokens = q->rows,
            .key_tokens = k->rows,
            .heads = heads,
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .backward = backward,
            .activation = q->dtype};
  }

  AttentionForward op() const {
    AttentionForward op;
    op.q = q->matrix();
    op.k = k->matrix();
    op.v = v->matrix();
    op.q_offsets = pointer<int32_t>(q_offsets);
    op.k_offsets = pointer<int32_t>(k_offsets);
    op.documents = static_cast<int32_t>(q_offsets->count() - 1);
    op.heads = heads;
    op.kv_heads = kv_heads;
    op.head_dim = head_dim;
    op.window = window;
    op.scale = scale;
    return op;
  }
};

AttentionArguments read_arguments(OptionsReader& args, KernelCall& call) {
  const auto integer = [&args](const char* key, int64_t min) {
    return static_cast<int32_t>(args.integer(key, min, std::numeric_limits<int32_t>::max()));
  };
  AttentionArguments result{};
  result.q = call.matrix(args, "q");
  result.k = call.matrix(args, "k");
  result.v = call.matrix(args, "v");
  result.q_offsets = call.vector(args, "qOffsets", DType::kI32);
  if (result.q_offsets->count() < 2) args.fail("qOffsets", "must have documents + 1 elements");
  result.k_offsets = args.has("kOffsets")
                         ? call.vector(args, "kOffsets", DType::kI32, result.q_offsets->count())
                         : result.q_offsets;
  result.heads = integer("heads", 1);
  result.kv_heads = integer("kvHeads", 1);
  result.head_dim = integer("headDim", 1);
  result.window = args.has("window") ? integer("window", 0) : 0;
  result.scale = static_cast<float>(args.number("scale"));
  return result;
}

}  // namespace

void read_attention_forward(OptionsReader& args, KernelCall& call) {
  const AttentionArguments read = read_arguments(args, call);
  const KernelArray* out = call.output("out", read.q->dtype, read.q->rows, read.q->cols);
  const KernelArray* lse = call.output("lse", DType::kF32, read.heads, read.q->rows);
  call.build = [=, &call](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    AttentionForward op = read.op();
    op.out = out->matrix();
    op.lse = pointer<float>(lse);
    op.workspace_bytes = ops::attention_workspace_bytes(*device, read.shape(false));
    op.workspace = call.workspace(device, op.workspace_bytes);
    return [op, device] { ops::attention_forward(*device, op); };
  };
}

void read_attention_backward(OptionsReader& args, KernelCall& call) {
  const AttentionArguments read = read_arguments(args, call);
  const KernelArray* out = call.matrix(args, "out");
  const KernelArray* lse =
      call.vector(args, "lse", DType::kF32, int64_t{read.heads} * read.q->rows);
  const KernelArray* d_out = call.matrix(args, "dOut");
  const KernelArray* d_q = call.output("d_q", read.q->dtype, read.q->rows, read.q->cols);
  const KernelArray* d_k = call.output("d_k", read.q->dtype, read.k->rows, read.k->cols);
  const KernelArray* d_v = call.output("d_v", read.q->dtype, read.k->rows, read.k->cols);
  call.build = [=, &call](const std::shared_ptr<Device>& device) -> KernelCall::Op {
    AttentionBackward op;
    op.forward = read.op();
    op.forward.out = out->matrix();
    op.forward.lse = pointer<float>(lse);
    op.forward.workspace_bytes = ops::attention_workspace_bytes(*device, read.shape(true));
    op.forward.workspace = call.workspace(device, op.forward.workspace_bytes);
    op.d_out = d_out->matrix();
    op.d_q = d_q->matrix();
    op.d_k = d_k->matrix();
    op.d_v = d_v->matrix();
    return [op, device] { ops::attention_backward(*device, op); };
  };
}

}  // namespace lowrank::node
