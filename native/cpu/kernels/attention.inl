// Attention over packed documents, compiled once per instruction set (see cpu/isa/README.md).
#include "core/thread_pool.h"
#include "cpu/attention_plan.h"
#include "cpu/cpu_device.h"
#include "cpu/isa/kernels.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

#include "cpu/kernels/attention_tile.inl"

#include "cpu/kernels/attention_forward.inl"

#include "cpu/kernels/attention_backward.inl"

// Products of bf16 panels, in tiles or on the vector units. Each file needs those before it.
// clang-format off
#if defined(LOWRANK_AMX) || defined(LOWRANK_BF16_UNIT)
#define LOWRANK_BF16_PANELS
#include "cpu/gemm/pairs.inl"
#ifdef LOWRANK_BF16_UNIT
#include "cpu/gemm/unit_bf16.inl"
#include "cpu/gemm/panels_bf16.inl"
#else
#ifdef LOWRANK_TILES
#include LOWRANK_TILES
#else
#include "cpu/gemm/tiles_amx.inl"
#endif
#include "cpu/gemm/panels_amx.inl"
#endif
#include "cpu/kernels/attention_pack_bf16.inl"
#include "cpu/kernels/attention_forward_bf16.inl"
#include "cpu/kernels/attention_backward_bf16.inl"
#endif
#include "cpu/kernels/attention_decode.inl"
// clang-format on

// Heads of one group that a forward task takes at most; more would not fit the scratch.
constexpr int64_t kMaxTaskHeads = kMaxLanes / kLaneStep;

// Calls task(block, head, heads, memory) for blocks of queries and the heads of a group.
template <typename Task>
void forward(CpuDevice& device, const AttentionForward& op, const Task& task) {
  QueryBlock* blocks = attention_workspace(op.workspace, op.q.rows, 0, 0, 0).blocks;
  const int64_t count = plan_query_blocks(op, forward_block_rows(op.heads, op.kv_heads), blocks);
  const int64_t group = op.heads / op.kv_heads;
  const int64_t parts = (group + kMaxTaskHeads - 1) / kMaxTaskHeads;
  const int64_t task_heads = (group + parts - 1) / parts;
  const int64_t per_block = op.kv_heads * parts;
  device.pool.parallel_for(count * per_block, [&](int64_t index, int worker) {
    const int64_t kv_head = index % per_block / parts, part = index % parts;
    const int64_t head = kv_head * group + part * task_heads;
    const int64_t heads = smaller(task_heads, (kv_head + 1) * group - head);
    if (heads <= 0) return;
    task(blocks[index / per_block], head, heads,
         static_cast<float*>(device.thread_scratch(worker)));
  });
}

// Calls task(BackwardTask, memory), then sums d_k and d_v over the groups and parts.
template <typename X, typename Task>
void backward(CpuDevice& device, const AttentionBackward& op, const Task& task) {
  const AttentionForward& forward = op.forward;
  const AttentionWorkspace workspace = attention_workspace(
      forward.workspace, forward.q.rows, forward.k.rows, forward.heads, forward.head_dim);
  const int64_t count = plan_query_blocks(forward, INT32_MAX, workspace.blocks);
  const int64_t parts =
      backward_parts(forward.k.rows, forward.heads, forward.head_dim, forward.documents);
  const int64_t per_document = parts * forward.heads;
  device.pool.parallel_for(count * per_document, [&](int64_t index, int worker) {
    const int64_t rest = index % per_document;
    task(BackwardTask{workspace.blocks[index / per_document].document, rest % forward.heads,
                      rest / forward.heads, parts, workspace},
         static_cast<float*>(device.thread_scratch(worker)));
  });
  constexpr int64_t kRows = 16;
  device.pool.parallel_for((forward.k.rows + kRows - 1) / kRows, [&](int64_t block, int worker) {
    float* memory = static_cast<float*>(device.thread_scratch(worker));
    for (int64_t row = block * kRows; row < smaller((block + 1) * kRows, forward.k.rows); ++row)
      sum_groups<X>(op, workspace, parts, row, memory);
  });
}

template <typename X>
void vector_forward(CpuDevice& device, const AttentionForward& op) {
  if (can_decode(op)) return decode<X>(device, op);
  forward(device, op, [&](const QueryBlock& block, int64_t head, int64_t heads, float* memory) {
    forward_block<X>(op, block, head, heads, memory);
  });
}

template <typename X>
void vector_backward(CpuDevice& device, const AttentionBackward& op) {
  backward<X>(device, op,
              [&](const BackwardTask& task, float* memory) { backward_head<X>(op, task, memory); });
}

#ifdef LOWRANK_BF16_PANELS
void tile_forward(CpuDevice& device, const AttentionForward& op) {
  // In generation no document fills tiles, and a loop over its keys that packs none isn't free.
  if (op.q.rows < kTileQueries) return vector_forward<BF16>(device, op);
  const AttentionWorkspace parts = attention_workspace(op.workspace, op.q.rows, 0, 0, 0);
  const PackedHeads packed = packed_heads(op, false, parts.d_k);
  pack_all_keys(device, op, packed);
  forward(device, op, [&](const QueryBlock& block, int64_t head, int64_t heads, float* memory) {
    if (Document(op, block.document).queries >= kTileQueries) {
      const TileScope scope;
      (void)scope;
      tile_forward_block(op, packed, block, head, heads, memory);
    } else {
      forward_block<BF16>(op, block, head, heads, memory);
    }
  });
}

void tile_backward(CpuDevice& device, const AttentionBackward& op) {
  const AttentionForward& forward = op.forward;
  const AttentionWorkspace all = attention_workspace(
      forward.workspace, forward.q.rows, forward.k.rows, forward.heads, forward.head_dim);
  const PackedHeads packed = packed_heads(forward, true, all.end);
  pack_all_keys(device, forward, packed);
  backward<BF16>(device, op, [&](const BackwardTask& task, float* memory) {
    if (Document(forward, task.document).queries >= kTileQueries) {
      const TileScope scope;
      (void)scope;
      tile_backward_head(op, packed, task, memory);
    } else {
      backward_head<BF16>(op, task, memory);
    }
  });
}

size_t workspace_bytes(const CpuDevice& device, const AttentionShape& shape) {
  const size_t vectors = attention_workspace_bytes(device, shape);
  return shape.activation == DType::kBF16 ? vectors + packed_bytes(shape) : vectors;
}
constexpr auto forward_bf16 = tile_forward;
constexpr auto backward_bf16 = tile_backward;

// What the level below has for f32.
const KernelTable& below() {
  static const KernelTable kernels = [] {
    KernelTable table;
    avx512::register_attention(table);
    return table;
  }();
  return kernels;
}
void forward_f32(CpuDevice& device, const AttentionForward& op) {
  below().attention_forward(device, op);
}
void backward_f32(CpuDevice& device, const AttentionBackward& op) {
  below().attention_backward(device, op);
}
#else
constexpr auto workspace_bytes = attention_workspace_bytes;
constexpr auto forward_bf16 = vector_forward<BF16>;
constexpr auto backward_bf16 = vector_backward<BF16>;
constexpr auto forward_f32 = vector_forward<float>;
constexpr auto backward_f32 = vector_backward<float>;
#endif

// Heads wider than this don't fit the scratch; nothing published has them.
constexpr int32_t kMaxHeadDim = 256;

void attention_forward(CpuDevice& device, const AttentionForward& op) {
  if (op.head_dim > kMaxHeadDim)
    reference_table().attention_forward(device, op);
  else if (op.q.dtype == DType::kBF16)
    forward_bf16(device, op);
  else
    forward_f32(device, op);
}

void attention_backward(CpuDevice& device, const AttentionBackward& op) {
  if (op.forward.head_dim > kMaxHeadDim)
    reference_table().attention_backward(device, op);
  else if (op.forward.q.dtype == DType::kBF16)
    backward_bf16(device, op);
  else
    backward_f32(device, op);
}

}  // namespace

void register_attention(KernelTable& table) {
  table.attention_workspace_bytes = workspace_bytes;
  table.attention_forward = attention_forward;
  table.attention_backward = attention_backward;
}

}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
