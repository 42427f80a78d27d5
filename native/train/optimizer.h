// Gradients and optimizer states of the trained tensors, in the memory that a plan laid out.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/decoder.h"
#include "train/plan.h"
#include "train/trained_tensors.h"

namespace lowrank {

class TrainedState {
 public:
  // `values` are the trained parameters in the order of `tensors`; `arena` is zero-filled.
  TrainedState(std::shared_ptr<Device> device, const StepPlan& plan, char* arena,
               const std::vector<TrainedTensor>& tensors, const std::vector<float*>& values,
               const SessionOptions& options);

  float* gradient(size_t tensor) const { return gradients_[tensor]; }
  void clear_gradients();
  // The Euclidean norm of all gradients together; not finite when any of them isn't.
  double gradient_norm() const;
  // One AdamW step (`step` counts from 1) with every gradient multiplied by `grad_scale`; the
  // gradients are zero afterwards.
  void update(float learning_rate, int64_t step, float grad_scale);

 private:
  std::shared_ptr<Device> device_;
  void* gradient_data_;
  size_t gradient_bytes_;
  std::vector<float*> gradients_;
  std::vector<int64_t> counts_;
  std::vector<AdamWTensor> tensors_[2];  // f32 states, 8-bit states
  AdamW adamw_;
};

}  // namespace lowrank
