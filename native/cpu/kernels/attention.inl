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
#include "cpu/kernels/attention_softmax_bf16.inl"
#include "cpu/kernels/attention_forward_bf16.inl"
#include "cpu/kernels/attention_backward_bf16.inl"
#endif
#include "cpu/kernels/attention_decode.inl"
// clang-format on

// A task's scratch: what its kernel works on, and behind that room for what it makes of a document.
// Reused by task after task, that stays in the second cache.
constexpr int64_t kTaskFloats = int64_t{1} << 18;
constexpr int64_t kRoomFloats = static_cast<int64_t>(kThreadScratchBytes / 4) - kTaskFloats;

inline float* scratch_of(const CpuDevice& device, int worker) {
  return static_cast<float*>(device.thread_scratch(worker));
}

inline int64_t most_keys(const AttentionForward& op) {
  int64_t most = 0;
  for (int64_t d = 0; d < op.documents; ++d) most = larger(most, Document(op, d).keys);
  return most;
}

// Heads of one group that a forward task takes at most; more would not fit the scratch.
constexpr int64_t kMaxTaskHeads = kMaxLanes / kLaneStep;

// How the heads of a group are cut into tasks.
struct GroupParts {
  int64_t group, count, heads;  // heads of all, parts, and heads of a part

  explicit GroupParts(const AttentionForward& op)
      : group(op.heads / op.kv_heads),
        count((group + kMaxTaskHeads - 1) / kMaxTaskHeads),
        heads((group + count - 1) / count) {}

  // Calls body(first head, heads) for a part.
  template <typename Body>
  void part(int64_t kv_head, int64_t index, const Body& body) const {
    const int64_t head = kv_head * group + index * heads;
    const int64_t count_here = smaller(heads, (kv_head + 1) * group - head);
    if (count_here > 0) body(head, count_here);
  }
};

// Calls task(block, head, heads, memory) for blocks of queries and the heads of a group.
template <typename Task>
void forward(CpuDevice& device, const AttentionForward& op, const Task& task) {
  QueryBlock* blocks = attention_workspace(op.workspace, op.q.rows, 0, 0, 0).blocks;
  const int64_t count = plan_query_blocks(op, forward_block_rows(op.heads, op.kv_heads), blocks);
  const GroupParts parts(op);
  const int64_t per_block = op.kv_heads * parts.count;
  device.pool.parallel_for(count * per_block, [&](int64_t index, int worker) {
    parts.part(index % per_block / parts.count, index % parts.count,
               [&](int64_t head, int64_t heads) {
                 task(blocks[index / per_block], head, heads, scratch_of(device, worker));
               });
  });
}

// The parts that d_k and d_v of a kv head are sums of: heads of its group, or, where more parts
// than heads are wanted, heads and parts of the queries.
struct BackwardParts {
  int64_t group, heads, queries;

  explicit BackwardParts(const AttentionForward& op) : group(op.heads / op.kv_heads) {
    const int64_t wanted = backward_parts(op.k.rows, op.kv_heads, op.head_dim, even_documents(op));
    heads = smaller(group, wanted);
    queries = wanted / heads;
  }
  int64_t count() const { return heads * queries; }
  QueryPart queries_of(const Document& document, int64_t part) const {
    return query_part(document, part / heads, queries);
  }
  int64_t first_head(int64_t part) const { return part % heads * group / heads; }
  int64_t end_head(int64_t part) const { return (part % heads + 1) * group / heads; }
};

// What a task's sums take of its room; 0: they stand in the workspace.
inline int64_t room_of_sums(const AttentionForward& op, int64_t stride) {
  const int64_t floats = 2 * most_keys(op) * stride;
  return BackwardParts(op).count() == 1 && floats <= kRoomFloats ? floats : 0;
}

// Calls body(BackwardTask, memory) for every task, then sums d_k and d_v over the parts. A document
// without queries gets no gradient.
template <typename X, typename Body>
void backward(CpuDevice& device, const AttentionBackward& op, const Body& body) {
  const AttentionForward& forward = op.forward;
  const AttentionWorkspace workspace = attention_workspace(
      forward.workspace, forward.q.rows, forward.k.rows, forward.kv_heads, forward.head_dim);
  const int64_t count = plan_query_blocks(forward, INT32_MAX, workspace.blocks);
  const BackwardParts parts(forward);
  const int64_t per_document = parts.count() * forward.kv_heads;
  const int64_t stride = workspace.partial_stride;
  const bool in_room = room_of_sums(forward, stride) > 0;
  device.pool.parallel_for(count * per_document, [&](int64_t index, int worker) {
    const int64_t document_index = workspace.blocks[index / per_document].document;
    const int64_t kv_head = index % forward.kv_heads;
    const int64_t part = index % per_document / forward.kv_heads;
    const Document document(forward, document_index);
    const QueryPart queries = parts.queries_of(document, part);
    float* memory = scratch_of(device, worker);
    KeySums sums = shared_sums(forward, workspace, document, kv_head, part, queries);
    if (in_room) {
      sums.d_k = memory + kTaskFloats;
      sums.d_v = sums.d_k + document.keys * stride;
    }
    const int64_t head = kv_head * parts.group;
    const BackwardTask task{op,
                            document_index,
                            document,
                            kv_head,
                            head + parts.first_head(part),
                            head + parts.end_head(part),
                            queries,
                            sums,
                            stride};
    task.clear();
    body(task, memory);
    if (parts.count() == 1)
      sum_parts<X>(op, document, kv_head, &sums, 1, stride, 0, document.keys, memory);
  });
  if (parts.count() == 1 && count == forward.documents) return;
  constexpr int64_t kChunks = 8;
  const int64_t tasks = forward.documents * forward.kv_heads * kChunks;
  device.pool.parallel_for(tasks, [&](int64_t index, int worker) {
    const int64_t chunk = index % kChunks, kv_head = index / kChunks % forward.kv_heads;
    const Document document(forward, index / kChunks / forward.kv_heads);
    if (parts.count() == 1 && document.queries > 0) return;
    KeySums sums[kMostParts];
    for (int64_t part = 0; part < parts.count(); ++part)
      sums[part] = shared_sums(forward, workspace, document, kv_head, part,
                               parts.queries_of(document, part));
    sum_parts<X>(op, document, kv_head, sums, parts.count(), stride,
                 document.keys * chunk / kChunks, document.keys * (chunk + 1) / kChunks,
                 scratch_of(device, worker));
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
void vector_task(const BackwardTask& task, float* memory) {
  for (int64_t head = task.head_begin; head < task.head_end; ++head)
    backward_head<X>(task, head, memory);
}

template <typename X>
void vector_backward(CpuDevice& device, const AttentionBackward& op) {
  backward<X>(device, op, vector_task<X>);
}

#ifdef LOWRANK_BF16_PANELS
#include "cpu/kernels/attention_tasks_bf16.inl"

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
