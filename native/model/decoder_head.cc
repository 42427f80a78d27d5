// What stands above the last block: the final norm, the head and the loss.
#include "model/decoder.h"
#include "ops/head_loss.h"
#include "ops/linear.h"
#include "ops/rms_norm.h"

namespace lowrank {

void Decoder::head(const DecoderBatch& batch, const void* x, const HeadInput& input, void* d_x,
                   const BufferSet& scratch, float* d_head, float* d_final_norm) {
  const int64_t hidden = model_->config.hidden;
  float* rstd = static_cast<float*>(scratch[kScratchRstd]);
  const Matrix x_matrix = activation(x, batch.tokens, hidden);
  const Matrix normed = activation(scratch[kScratchNorm], batch.tokens, hidden);
  ops::rms_norm_forward(*model_->device,
                        {x_matrix, normed, final_norm_, model_->config.rms_norm_eps, rstd});
  HeadLoss op;
  op.x = normed;
  if (d_x) op.d_x = activation(scratch[kScratchDNorm], batch.tokens, hidden);
  op.rows = input.rows;
  op.targets = input.targets;
  op.weights = input.weights;
  op.count = input.count;
  op.weight = head_;
  op.d_weight = d_head;
  op.logprob = input.logprob;
  op.correct = input.correct;
  op.workspace = scratch[kScratchWorkspace];
  op.workspace_bytes = scratch.bytes(kScratchWorkspace);
  ops::head_loss(*model_->device, op);
  if (d_x)
    ops::rms_norm_backward(*model_->device,
                           {x_matrix, op.d_x, activation(d_x, batch.tokens, hidden), false,
                            final_norm_, d_final_norm, rstd});
}

void Decoder::logits(const void* x, int64_t first, int64_t count, float* logits,
                     const BufferSet& scratch) {
  const int64_t hidden = model_->config.hidden;
  Matrix rows = activation(x, count, hidden);
  rows.data = static_cast<char*>(rows.data) +
              static_cast<size_t>(first * rows.stride) * dtype_size(rows.dtype);
  LinearForward op;
  op.x = activation(scratch[kScratchNorm], count, hidden);
  ops::rms_norm_forward(*model_->device,
                        {rows, op.x, final_norm_, model_->config.rms_norm_eps, nullptr});
  op.y = {logits, DType::kF32, count, head_.rows, head_.rows};
  op.weight = head_;
  op.workspace = scratch[kScratchWorkspace];
  op.workspace_bytes = scratch.bytes(kScratchWorkspace);
  ops::linear_forward(*model_->device, op);
}

}  // namespace lowrank
