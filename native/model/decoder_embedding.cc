// What stands below the first block: the rows of the embedding.
#include "model/decoder.h"
#include "ops/embedding.h"

namespace lowrank {

void Decoder::embed(const DecoderBatch& batch, void* x) {
  if (batch.longest > 0) prepare_rope(batch.longest);
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
