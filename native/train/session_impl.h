// One training run over a fixed memory plan: forward, loss, backward and update.
//
// Losses and gradients are normalised by the label weight of *all* micro-batches of a step, so
// splitting a step into micro-batches doesn't change what is learnt. Nothing is allocated inside a
// step. A step that fails or is aborted leaves parameters and optimizer states as they were, and
// gradients zero: the device itself doesn't update what has no finite norm, so the host waits for
// it only once, at the end of a step.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/decoder.h"
#include "train/micro_batch.h"
#include "train/optimizer.h"
#include "train/plan.h"
#include "train/trained_tensors.h"
#include "train/transfer.h"

namespace lowrank {

class SessionImpl {
 public:
  SessionImpl(std::shared_ptr<ModelImpl> model, std::shared_ptr<AdapterImpl> adapter,
              const SessionOptions& options);

  // As in engine.h.
  StepResult step(const std::vector<MicroBatch>& batches, const StepOptions& options,
                  const std::atomic<bool>* abort);
  StepResult evaluate(const std::vector<MicroBatch>& batches, float* per_token,
                      const std::atomic<bool>* abort);
  StepResult gradients(const std::vector<MicroBatch>& batches, int64_t step,
                       std::map<std::string, std::vector<float>>* out);
  const PlanReport& plan() const { return plan_.report; }
  void save_state(const std::string& file) const;
  void load_state(const std::string& file);

 private:
  void* at(uint64_t offset) const { return arena_.as<char>() + offset; }
  BatchLimits limits() const;
  void bind_gradients();

  // Results (log-probabilities and correct tokens) that only the device has: of the micro-batches
  // from `batch` on, one after the other.
  struct Unread {
    size_t batch = 0;
    int64_t labels = 0;
  };

  // Sums the gradients of all micro-batches; result.aborted when `abort` came in between. The loss
  // is that of the results which had to make room for others.
  StepResult accumulate(const std::vector<MicroBatch>& batches, int64_t step,
                        const std::atomic<bool>* abort, Unread* unread);
  // Waits for the results of the unread micro-batches before `end` and adds them. Throws
  // Error{kNotFinite} when the loss isn't finite.
  void read_results(const std::vector<MicroBatch>& batches, size_t end, int64_t step,
                    Unread* unread, StepResult* result);
  DecoderBatch upload_batch(const MicroBatch& batch, uint64_t dropout_seed);
  // Uploads the labelled rows; `scale` multiplies their weights, results stand from `first` on.
  Decoder::HeadInput upload_labels(const MicroBatch& batch, double scale, bool keep_weightless,
                                   int64_t first);
  // Waits for the first `labels` results.
  void download_results(int64_t labels);
  // Adds a micro-batch's correct tokens to the result and returns its weighted loss; the labelled
  // rows are the last that were gathered.
  double loss_of(const MicroBatch& batch, int32_t count, int64_t first, StepResult* result);
  // The input of trained block `layer`; layer == layers is the last block's output.
  void* input_of(int32_t layer) const;
  void forward_backward(const DecoderBatch& batch, const Decoder::HeadInput& input);
  void forward_only(const DecoderBatch& batch, const Decoder::HeadInput& input);

  std::shared_ptr<ModelImpl> model_;
  std::shared_ptr<AdapterImpl> adapter_;
  SessionOptions options_;
  std::vector<TrainedTensor> tensors_;
  StepPlan plan_;
  Buffer arena_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<TrainedState> state_;
  int64_t updates_ = 0;  // the step number of the last update; saved with the state

  ModelGradients gradients_;
  BufferSet scratch_;
  std::vector<BufferSet> saved_;

  TransferBuffer<int32_t> ids_, positions_, document_offsets_, rows_, targets_;
  TransferBuffer<float> weights_, logprob_;
  TransferBuffer<uint8_t> correct_;
};

}  // namespace lowrank
