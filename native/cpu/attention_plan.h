// How attention is cut into tasks. The cut depends on the shapes alone, so results don't depend on
// the number of threads; the costliest tasks come first, so that workers end together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

namespace lowrank::cpu {

struct CpuDevice;

// Keys per tile, and the target of query rows (over all heads of a group) per forward task.
inline constexpr int64_t kKeyTile = 64;
inline constexpr int64_t kForwardRows = 128;
// Query rows per tile of the backward pass.
inline constexpr int64_t kBackwardRows = 64;

// Query rows [begin, begin + rows) of a document, counted from the document's first row.
struct QueryBlock {
  int32_t document = 0;
  int32_t begin = 0;
  int32_t rows = 0;
};

// Writes the blocks of at most `block_rows` rows, the costliest first, and returns how many.
// `blocks` has room for one entry per query row.
int64_t plan_query_blocks(const AttentionForward& op, int64_t block_rows, QueryBlock* blocks);

// Query rows per forward task and head.
int64_t forward_block_rows(int32_t heads, int32_t kv_heads);

// As how many equal documents these share out: their query-key pairs over those of the largest.
int32_t even_documents(const AttentionForward& op);

// Parts, at most, that the backward pass cuts the heads and queries of a kv head into, so that few
// kv heads still make enough tasks. Each costs gradients of k and v of its own, which must be
// summed.
inline constexpr int64_t kMostParts = 8;
int64_t backward_parts(int64_t key_tokens, int32_t kv_heads, int32_t head_dim,
                       int32_t even_documents);

// Generation: documents that ask with one row each. Their keys are cut into parts, so that a task
// reads whole rows of the cache one after another and few heads still make many tasks; the parts'
// sums are added in order afterwards. A part is whole runs of kPartKeys, or a document's last keys.
struct KeyPart {
  int32_t document = 0;
  int32_t begin = 0, end = 0;  // counted from the document's first key
};
inline constexpr int64_t kPartKeys = 64;
inline constexpr int64_t kMostKeyParts = 64;     // of a document
inline constexpr int32_t kDecodeDocuments = 32;  // that are planned at once

bool asks_single_rows(const AttentionForward& op);

// What the parts of at most kDecodeDocuments documents need of the workspace.
struct DecodeWorkspace {
  KeyPart* parts = nullptr;
  int32_t* first_part = nullptr;  // of each document, and behind the last
  int64_t stride = 0;             // of a head's sums
  float* out = nullptr;           // [parts, heads, stride]: sum of exp(score - max) v
  float* max = nullptr;           // [parts, heads]
  float* sum = nullptr;           // [parts, heads] of exp(score - max)
};
DecodeWorkspace decode_workspace(const AttentionForward& op);

// Plans documents [first, end) and returns how many parts they have.
int64_t plan_key_parts(const AttentionForward& op, int32_t first, int32_t end,
                       const DecodeWorkspace& workspace);

// The parts of an op's workspace: the plan, and for the backward pass the f32 gradients of k and v
// for every part, [parts, kv_heads, key_tokens, partial_stride] each, which are summed over the
// parts in order.
struct AttentionWorkspace {
  QueryBlock* blocks = nullptr;
  int64_t partial_stride = 0;  // head_dim, filled up to whole vectors
  float* d_k = nullptr;
  float* d_v = nullptr;
  char* end = nullptr;
};
AttentionWorkspace attention_workspace(void* workspace, int64_t query_tokens, int64_t key_tokens,
                                       int32_t kv_heads, int32_t head_dim);
size_t attention_workspace_bytes(const CpuDevice& device, const AttentionShape& shape);

}  // namespace lowrank::cpu
