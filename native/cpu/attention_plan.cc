#include "cpu/attention_plan.h"

#include <algorithm>

namespace lowrank::cpu {
namespace {

constexpr size_t kAlignment = 64;

size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

size_t plan_bytes(int64_t query_tokens) {
  return aligned(static_cast<size_t>(query_tokens) * sizeof(QueryBlock));
}

int64_t partial_stride(int32_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Of all heads' gradients of k or v, for one part of the queries.
size_t partial_bytes(int64_t key_tokens, int32_t kv_heads, int32_t head_dim) {
  return static_cast<size_t>(key_tokens * kv_heads * partial_stride(head_dim)) * sizeof(float);
}

// Tasks that the backward pass has at least. Long documents are worth what more parts cost.
constexpr int64_t kBackwardTasks = 8, kLongBackwardTasks = 16;
constexpr int64_t kLongDocument = 2048;

constexpr size_t kMorePartsBytes = size_t{16} << 20;  // what parts beyond the first may take

// Of all parts, as many as a single document has.
size_t gradient_bytes(int64_t key_tokens, int32_t kv_heads, int32_t head_dim) {
  return static_cast<size_t>(backward_parts(key_tokens, kv_heads, head_dim, 1)) *
         partial_bytes(key_tokens, kv_heads, head_dim);
}

// Query-key pairs of a block, ignoring the bevel of its first and last tile.
int64_t block_cost(const AttentionForward& op, const QueryBlock& block) {
  const int64_t queries = op.q_offsets[block.document + 1] - op.q_offsets[block.document];
  const int64_t keys = op.k_offsets[block.document + 1] - op.k_offsets[block.document];
  const int64_t last = block.begin + block.rows + keys - queries;
  const int64_t seen = op.window > 0 ? std::min<int64_t>(last, op.window + block.rows) : last;
  return seen * block.rows;
}

// Of kDecodeDocuments documents together.
int64_t most_key_parts(int64_t query_tokens, int64_t key_tokens) {
  const int64_t documents = std::min<int64_t>(query_tokens, kDecodeDocuments);
  return documents + std::min(key_tokens / kPartKeys, documents * kMostKeyParts);
}

// Hands out memory, or counts what it would take.
struct Carver {
  char* at = nullptr;
  size_t used = 0;
  template <typename T>
  T* take(int64_t count) {
    T* block = at ? reinterpret_cast<T*>(at + used) : nullptr;
    used += aligned(static_cast<size_t>(count) * sizeof(T));
    return block;
  }
};

DecodeWorkspace carve_decode(Carver& carver, int64_t query_tokens, int64_t key_tokens,
                             int32_t heads, int32_t head_dim) {
  const int64_t parts = most_key_parts(query_tokens, key_tokens);
  DecodeWorkspace workspace;
  workspace.parts = carver.take<KeyPart>(parts);
  workspace.first_part = carver.take<int32_t>(kDecodeDocuments + 1);
  workspace.stride = partial_stride(head_dim);
  workspace.out = carver.take<float>(parts * heads * workspace.stride);
  workspace.max = carver.take<float>(parts * heads);
  workspace.sum = carver.take<float>(parts * heads);
  return workspace;
}

}  // namespace

bool asks_single_rows(const AttentionForward& op) {
  if (op.q.rows > op.documents) return false;
  for (int32_t d = 0; d < op.documents; ++d)
    if (op.q_offsets[d + 1] - op.q_offsets[d] > 1) return false;
  return true;
}

DecodeWorkspace decode_workspace(const AttentionForward& op) {
  Carver carver{static_cast<char*>(op.workspace)};
  return carve_decode(carver, op.q.rows, op.k.rows, op.heads, op.head_dim);
}

int64_t plan_key_parts(const AttentionForward& op, int32_t first, int32_t end,
                       const DecodeWorkspace& workspace) {
  int32_t count = 0;
  for (int32_t d = first; d < end; ++d) {
    workspace.first_part[d - first] = count;
    if (op.q_offsets[d + 1] == op.q_offsets[d]) continue;
    const int32_t keys = op.k_offsets[d + 1] - op.k_offsets[d];
    const int32_t low = op.window > 0 ? std::max(0, keys - op.window) : 0;
    const int64_t runs = (keys - low + kPartKeys - 1) / kPartKeys;
    const auto step = static_cast<int32_t>((runs + kMostKeyParts - 1) / kMostKeyParts * kPartKeys);
    for (int32_t begin = low; begin < keys; begin += step)
      workspace.parts[count++] = {d, begin, std::min(begin + step, keys)};
  }
  workspace.first_part[end - first] = count;
  return count;
}

int32_t even_documents(const AttentionForward& op) {
  int64_t all = 0, largest = 1;
  for (int32_t document = 0; document < op.documents; ++document) {
    const int32_t rows = op.q_offsets[document + 1] - op.q_offsets[document];
    const int64_t cost = block_cost(op, {document, 0, rows});
    all += cost, largest = std::max(largest, cost);
  }
  return static_cast<int32_t>(std::max<int64_t>(1, all / largest));
}

int64_t backward_parts(int64_t key_tokens, int32_t kv_heads, int32_t head_dim,
                       int32_t even_documents) {
  const int64_t tasks = std::max<int64_t>(1, int64_t{kv_heads} * even_documents);
  const bool are_long = key_tokens >= kLongDocument * even_documents;
  const int64_t wanted = are_long ? kLongBackwardTasks : kBackwardTasks;
  const auto fitting = static_cast<int64_t>(
      kMorePartsBytes / std::max<size_t>(1, 2 * partial_bytes(key_tokens, kv_heads, head_dim)));
  return std::min({(wanted + tasks - 1) / tasks, kMostParts, 1 + fitting});
}

int64_t forward_block_rows(int32_t heads, int32_t kv_heads) {
  const int64_t group = heads / kv_heads;
  return std::max<int64_t>(16, kForwardRows / group / 16 * 16);
}

int64_t plan_query_blocks(const AttentionForward& op, int64_t block_rows, QueryBlock* blocks) {
  int64_t count = 0;
  for (int32_t document = 0; document < op.documents; ++document) {
    const int64_t rows = op.q_offsets[document + 1] - op.q_offsets[document];
    for (int64_t begin = 0; begin < rows; begin += block_rows)
      blocks[count++] = {document, static_cast<int32_t>(begin),
                         static_cast<int32_t>(std::min(block_rows, rows - begin))};
  }
  std::sort(blocks, blocks + count, [&](const QueryBlock& a, const QueryBlock& b) {
    const int64_t cost_a = block_cost(op, a), cost_b = block_cost(op, b);
    if (cost_a != cost_b) return cost_a > cost_b;
    return a.document != b.document ? a.document < b.document : a.begin < b.begin;
  });
  return count;
}

AttentionWorkspace attention_workspace(void* workspace, int64_t query_tokens, int64_t key_tokens,
                                       int32_t kv_heads, int32_t head_dim) {
  char* bytes = static_cast<char*>(workspace);
  AttentionWorkspace parts;
  parts.blocks = reinterpret_cast<QueryBlock*>(bytes);
  parts.partial_stride = partial_stride(head_dim);
  bytes += plan_bytes(query_tokens);
  const size_t gradients = gradient_bytes(key_tokens, kv_heads, head_dim);
  parts.d_k = reinterpret_cast<float*>(bytes);
  parts.d_v = reinterpret_cast<float*>(bytes + gradients);
  parts.end = bytes + 2 * gradients;
  return parts;
}

size_t attention_workspace_bytes(const CpuDevice&, const AttentionShape& shape) {
  const size_t blocks = plan_bytes(shape.query_tokens);
  if (shape.backward)
    return blocks + 2 * gradient_bytes(shape.key_tokens, shape.kv_heads, shape.head_dim);
  Carver carver;
  carve_decode(carver, shape.query_tokens, shape.key_tokens, shape.heads, shape.head_dim);
  return std::max(blocks, carver.used);
}

}  // namespace lowrank::cpu
