// Attention over packed documents, compiled once per instruction set (see cpu/isa/README.md).
#include "core/thread_pool.h"
#include "cpu/attention_plan.h"
#include "cpu/cpu_device.h"
#include "cpu/isa/kernels.h"
#include "cpu/simd.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

#include "cpu/kernels/attention_tile.inl"

#include "cpu/kernels/attention_forward.inl"

#include "cpu/kernels/attention_decode.inl"

#include "cpu/kernels/attention_backward.inl"

// Heads of one group that a forward task takes at most; more would not fit the scratch.
constexpr int64_t kMaxTaskHeads = kMaxLanes / kLaneStep;

template <typename X>
void forward(CpuDevice& device, const AttentionForward& op) {
  QueryBlock* blocks = attention_workspace(op.workspace, op.q.rows, 0, 0, 0).blocks;
  const int64_t count = plan_query_blocks(op, forward_block_rows(op.heads, op.kv_heads), blocks);
  const int64_t group = op.heads / op.kv_heads;
  const int64_t parts = (group + kMaxTaskHeads - 1) / kMaxTaskHeads;
  const int64_t task_heads = (group + parts - 1) / parts;
  const int64_t per_block = op.kv_heads * parts;
  device.pool.parallel_for(count * per_block, [&](int64_t index, int worker) {
    const QueryBlock& block = blocks[index / per_block];
    const int64_t kv_head = index % per_block / parts, part = index % parts;
    const int64_t head = kv_head * group + part * task_heads;
    const int64_t heads = smaller(task_heads, (kv_head + 1) * group - head);
    if (heads <= 0) return;
    float* memory = static_cast<float*>(device.thread_scratch(worker));
    if (op.q_offsets[block.document + 1] - op.q_offsets[block.document] == 1)
      decode_block<X>(op, block, head, heads, memory);
    else
      forward_block<X>(op, block, head, heads, memory);
  });
}

template <typename X>
void backward(CpuDevice& device, const AttentionBackward& op) {
  const AttentionForward& forward = op.forward;
  const AttentionWorkspace parts = attention_workspace(
      forward.workspace, forward.q.rows, forward.k.rows, forward.heads, forward.head_dim);
  const int64_t count = plan_query_blocks(forward, INT32_MAX, parts.blocks);
  device.pool.parallel_for(count * forward.heads, [&](int64_t index, int worker) {
    const Document document(forward, parts.blocks[index / forward.heads].document);
    backward_head<X>(op, document, index % forward.heads, parts,
                     static_cast<float*>(device.thread_scratch(worker)));
  });
  constexpr int64_t kRows = 16;
  device.pool.parallel_for((forward.k.rows + kRows - 1) / kRows, [&](int64_t task, int worker) {
    float* memory = static_cast<float*>(device.thread_scratch(worker));
    for (int64_t row = task * kRows; row < smaller((task + 1) * kRows, forward.k.rows); ++row)
      sum_groups<X>(op, parts, row, memory);
  });
}

// Heads wider than this don't fit the scratch; nothing published has them.
constexpr int32_t kMaxHeadDim = 256;

void attention_forward(CpuDevice& device, const AttentionForward& op) {
  if (op.head_dim > kMaxHeadDim)
    reference_table().attention_forward(device, op);
  else if (op.q.dtype == DType::kBF16)
    forward<BF16>(device, op);
  else
    forward<float>(device, op);
}

void attention_backward(CpuDevice& device, const AttentionBackward& op) {
  if (op.forward.head_dim > kMaxHeadDim)
    reference_table().attention_backward(device, op);
  else if (op.forward.q.dtype == DType::kBF16)
    backward<BF16>(device, op);
  else
    backward<float>(device, op);
}

}  // namespace

void register_attention(KernelTable& table) {
  table.attention_workspace_bytes = attention_workspace_bytes;
  table.attention_forward = attention_forward;
  table.attention_backward = attention_backward;
}

}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
