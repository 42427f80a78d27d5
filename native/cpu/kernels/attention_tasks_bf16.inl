// Attention's passes over bf16 panels. K and V are packed by the task that uses them, where a
// document's fit its scratch: packed for all tasks at once, they leave the second cache and come
// back.

inline uint16_t* room_for_keys(float* memory, int64_t taken) {
  return reinterpret_cast<uint16_t*>(memory + kTaskFloats + taken);
}
inline bool keys_fit(const AttentionForward& op, int64_t taken, bool backward) {
  return taken + packed_elements(most_keys(op), op.head_dim, backward) / 2 <= kRoomFloats;
}

inline void forward_tile_or_vectors(const AttentionForward& op, const PackedHead& keys,
                                    const QueryBlock& block, int64_t head, int64_t heads,
                                    float* memory) {
  if (keys.rows == 0) return forward_block<BF16>(op, block, head, heads, memory);
  const TileScope scope;
  (void)scope;
  tile_forward_block(op, keys, block, head, heads, memory);
}

// One task per document and kv head.
inline void forward_documents(CpuDevice& device, const AttentionForward& op) {
  QueryBlock* documents = attention_workspace(op.workspace, op.q.rows, 0, 0, 0).blocks;
  const int64_t count = plan_query_blocks(op, INT32_MAX, documents);
  const int64_t block_rows = forward_block_rows(op.heads, op.kv_heads);
  const GroupParts parts(op);
  device.pool.parallel_for(count * op.kv_heads, [&](int64_t index, int worker) {
    QueryBlock block = documents[index / op.kv_heads];
    const int64_t kv_head = index % op.kv_heads;
    const Document document(op, block.document);
    float* memory = scratch_of(device, worker);
    PackedHead keys;
    if (document.queries >= kTileQueries) {
      keys = packed_head(room_for_keys(memory, 0), document, op.head_dim, false);
      pack_keys(op, document, kv_head, keys, 0, keys.rows);
    }
    for (int64_t begin = 0; begin < document.queries; begin += block_rows) {
      block.begin = static_cast<int32_t>(begin);
      block.rows = static_cast<int32_t>(smaller(block_rows, document.queries - begin));
      for (int64_t part = 0; part < parts.count; ++part)
        parts.part(kv_head, part, [&](int64_t head, int64_t heads) {
          forward_tile_or_vectors(op, keys, block, head, heads, memory);
        });
    }
  });
}

void tile_forward(CpuDevice& device, const AttentionForward& op) {
  // In generation no document fills tiles, and a loop over its keys that packs none isn't free.
  if (op.q.rows < kTileQueries) return vector_forward<BF16>(device, op);
  const bool enough_tasks = int64_t{even_documents(op)} * op.kv_heads >= 4 * device.pool.size();
  if (enough_tasks && keys_fit(op, 0, false)) return forward_documents(device, op);
  auto* packed =
      reinterpret_cast<uint16_t*>(attention_workspace(op.workspace, op.q.rows, 0, 0, 0).d_k);
  pack_all_keys(device, op, packed, false);
  forward(device, op, [&](const QueryBlock& block, int64_t head, int64_t heads, float* memory) {
    const Document document(op, block.document);
    PackedHead keys;
    if (document.queries >= kTileQueries)
      keys =
          shared_head(op, packed, document, block.document, head / (op.heads / op.kv_heads), false);
    forward_tile_or_vectors(op, keys, block, head, heads, memory);
  });
}

void tile_backward(CpuDevice& device, const AttentionBackward& op) {
  const AttentionForward& forward = op.forward;
  const AttentionWorkspace all = attention_workspace(
      forward.workspace, forward.q.rows, forward.k.rows, forward.kv_heads, forward.head_dim);
  const int64_t taken = room_of_sums(forward, all.partial_stride);
  const bool fit = BackwardParts(forward).count() == 1 && keys_fit(forward, taken, true);
  auto* packed = reinterpret_cast<uint16_t*>(all.end);
  if (!fit) pack_all_keys(device, forward, packed, true);
  backward<BF16>(device, op, [&](const BackwardTask& task, float* memory) {
    const Document& document = task.document;
    if (document.queries < kTileQueries) return vector_task<BF16>(task, memory);
    const PackedHead keys =
        fit ? packed_head(room_for_keys(memory, taken), document, forward.head_dim, true)
            : shared_head(forward, packed, document, task.index, task.kv_head, true);
    if (fit)
      pack_keys(forward, document, task.kv_head, keys, task.queries.key_begin / kPanel * kPanel,
                round_up(task.queries.key_end, kPanel));
    const TileScope scope;
    (void)scope;
    for (int64_t head = task.head_begin; head < task.head_end; ++head)
      tile_backward_head(task, keys, head, memory);
  });
}
