// What stands below the first block: the rows of the embedding.
#include <algorithm>

#include "model/decoder.h"
#include "ops/embedding.h"

namespace lowrank {

void Decoder::embed(const DecoderBatch& batch, void* x) {
  int64_t longest = 0;
  for (int32_t d = 0; d < batch.documents; ++d)
    longest = std::max<int64_t>(longest, batch.document_offsets[d + 1] - batch.document_offsets[d]);
  if (batch.documents > 0) prepare_rope(longest);
  EmbeddingForward op;
  op.ids = batch.ids;
  op.weight = embedding_;
  op.y = activation(x, batch.tokens, model_->config.hidden);
  ops::embedding_forward(*model_->device, op);
}

void Decoder::embed_backward(const DecoderBatch& batch, const void* d_x, float* d_embedding) {
  EmbeddingBackward op;
  op.ids = batch.ids;
  op.d_y = activation(d_x, batch.tokens, model_->config.hidden);
  op.d_weight = d_embedding;
  op.padding_id = model_->config.padding_row;
  ops::embedding_backward(*model_->device, op);
}

}  // namespace lowrank
