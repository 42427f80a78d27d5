// The memory plan: where every buffer of a training step stands in one arena, decided before the
// first step. The same code plans a session and answers estimate() from config.json alone, so a
// prediction can't drift from what is allocated.
//
// Checkpointing: a block's saved values are kept from its forward to its backward, or recomputed
// from its input, but for the few that every block keeps (BufferSpec::kept). Blocks cost the same,
// so losing the least time means keeping as many as fit. One set of saved values is always there:
// the last block uses it, and every recomputed block after it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine_types.h"
#include "model/decoder.h"
#include "train/trained_tensors.h"

namespace lowrank {

struct PlanRequest {
  Device* device = nullptr;
  const ModelConfig* config = nullptr;
  ModelOptions model;
  SessionOptions session;
  const std::vector<LoraModule>* modules = nullptr;
  const std::vector<TrainedTensor>* tensors = nullptr;
  uint64_t weight_bytes = 0;  // as held on the device
  uint64_t adapter_bytes = 0;
  uint64_t loaded_bytes = 0;  // of these, what is already taken from the device's free memory
};

// A buffer's place in the arena.
struct Placed {
  uint64_t offset = 0, bytes = 0;
};

// Offsets into the arena of one tensor's gradient and optimizer states.
struct TensorPlan {
  uint64_t gradient = 0;
  bool eight_bit = false;
  uint64_t m = 0, v = 0;                // f32 values or 8-bit codes
  uint64_t m_absmax = 0, v_absmax = 0;  // 8-bit only
};

// Offsets of what goes to and comes from the device with a micro-batch.
struct TransferPlan {
  uint64_t ids = 0, positions = 0, document_offsets = 0;
  uint64_t rows = 0, targets = 0, weights = 0;
  // Of this many labels, so that a step needn't wait for the device after each micro-batch.
  int64_t results = 0;
  uint64_t logprob = 0, correct = 0;
  uint64_t squared_norm = 0;  // one f64 a step
};

struct StepPlan {
  PlanReport report;
  uint64_t budget = 0;  // bytes that report.total_bytes may take
  uint64_t arena_bytes = 0;
  StepShape shape;
  int64_t max_positions = 0;  // longest document
  int32_t lowest_layer = 0;   // see lowest_trained_layer()

  uint64_t gradients = 0, gradient_bytes = 0;  // one range, cleared at once
  std::vector<TensorPlan> tensors;
  std::vector<uint64_t> inputs;  // of the trained blocks, and the last one's output
  // [set][buffer]; block layers-1-s uses set s, and from `own_sets` on it shares what isn't kept
  // with the last block.
  std::vector<std::vector<Placed>> saved;
  uint64_t own_sets = 0;
  std::vector<Placed> scratch;
  uint64_t d_x = 0;
  TransferPlan transfer;

  // The set that `layer` writes in its forward pass.
  size_t saved_set(int32_t layer) const;
  // Whether `layer`'s values are gone when its backward comes.
  bool recomputed(int32_t layer) const;
};

// Tensors smaller than this keep f32 states under the 8-bit optimizer, as in bitsandbytes.
inline constexpr int64_t kMinimum8BitSize = 4096;

// Throws Error{kInvalidArgument} for sizes that make no sense. Doesn't refuse a plan that is over
// its budget.
StepPlan make_plan(const PlanRequest& request);

// Throws Error{kOutOfMemory} with the figures when the plan is over its budget.
void check_fits(const StepPlan& plan);
// Throws the same, with what was free.
[[noreturn]] void refuse_plan(const StepPlan& plan, uint64_t free);

// Bytes that the weights will take on the device, by storage type.
uint64_t predict_weight_bytes(const ModelConfig& config, const ModelOptions& options);
uint64_t adapter_bytes(const std::vector<TrainedTensor>& tensors);

}  // namespace lowrank
