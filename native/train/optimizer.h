// Gradients and optimizer states of the trained tensors, in the memory that a plan laid out.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/decoder.h"
#include "train/plan.h"
#include "train/trained_tensors.h"
#include "train/transfer.h"

namespace lowrank {

class TrainedState {
 public:
  // `values` are the trained parameters in the order of `tensors`; `arena` is zero-filled.
  TrainedState(std::shared_ptr<Device> device, const StepPlan& plan, char* arena,
               const std::vector<TrainedTensor>& tensors, const std::vector<float*>& values,
               const SessionOptions& options);

  float* gradient(size_t tensor) const { return gradients_[tensor]; }
  void clear_gradients();
  // Has the device compute the norm of all gradients together. `finite` is device memory: where one
  // of these values isn't finite, the norm isn't either.
  void compute_norm(const float* finite, int64_t finite_count);
  // One AdamW step (`step` counts from 1) with the gradients clipped by the norm that was computed;
  // they are zero afterwards. Changes nothing when that norm isn't finite.
  void update(float learning_rate, int64_t step);
  // Waits for the norm: Euclidean, before clipping; not finite when any gradient isn't.
  double gradient_norm();

 private:
  std::shared_ptr<Device> device_;
  void* gradient_data_;
  size_t gradient_bytes_;
  std::vector<float*> gradients_;
  std::vector<int64_t> counts_;
  std::vector<AdamWTensor> tensors_[2];  // f32 states, 8-bit states
  AdamW adamw_;
  TransferBuffer<double> squared_norm_;
};

}  // namespace lowrank
