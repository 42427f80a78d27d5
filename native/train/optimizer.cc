#include "train/optimizer.h"

#include <cmath>

#include "ops/adamw.h"
#include "ops/squared_norm.h"

namespace lowrank {

TrainedState::TrainedState(std::shared_ptr<Device> device, const StepPlan& plan, char* arena,
                           const std::vector<TrainedTensor>& tensors,
                           const std::vector<float*>& values, const SessionOptions& options)
    : device_(std::move(device)),
      gradient_data_(arena + plan.gradients),
      gradient_bytes_(plan.gradient_bytes),
      squared_norm_(device_, arena + plan.transfer.squared_norm, 1) {
  adamw_.beta1 = options.beta1;
  adamw_.beta2 = options.beta2;
  adamw_.eps = options.eps;
  adamw_.squared_norm = squared_norm_.device();
  adamw_.max_norm = static_cast<double>(options.max_grad_norm);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorPlan& place = plan.tensors[i];
    gradients_.push_back(reinterpret_cast<float*>(arena + place.gradient));
    counts_.push_back(tensors[i].count);

    AdamWTensor tensor;
    tensor.parameter = values[i];
    tensor.gradient = gradients_.back();
    tensor.count = tensors[i].count;
    tensor.weight_decay = tensors[i].decay ? options.weight_decay : 0;
    if (place.eight_bit) {
      tensor.m_codes = reinterpret_cast<uint8_t*>(arena + place.m);
      tensor.v_codes = reinterpret_cast<uint8_t*>(arena + place.v);
      tensor.m_absmax = reinterpret_cast<float*>(arena + place.m_absmax);
      tensor.v_absmax = reinterpret_cast<float*>(arena + place.v_absmax);
    } else {
      tensor.m = reinterpret_cast<float*>(arena + place.m);
      tensor.v = reinterpret_cast<float*>(arena + place.v);
    }
    tensors_[place.eight_bit].push_back(tensor);
  }
}

void TrainedState::clear_gradients() {
  device_->check(device_->backend().fill_zero(device_->handle(), gradient_data_, gradient_bytes_),
                 "fill_zero");
}

void TrainedState::compute_norm(const float* finite, int64_t finite_count) {
  SquaredNorm op;
  op.tensors = gradients_.data();
  op.counts = counts_.data();
  op.tensor_count = static_cast<int32_t>(gradients_.size());
  op.finite = finite;
  op.finite_count = finite_count;
  op.result = squared_norm_.device();
  ops::squared_norm(*device_, op);
}

double TrainedState::gradient_norm() {
  squared_norm_.download(1);
  return std::sqrt(*squared_norm_.host());
}

void TrainedState::update(float learning_rate, int64_t step) {
  for (const bool eight_bit : {false, true}) {
    std::vector<AdamWTensor>& tensors = tensors_[eight_bit];
    if (tensors.empty()) continue;
    for (AdamWTensor& tensor : tensors) tensor.learning_rate = learning_rate;
    AdamW op = adamw_;
    op.tensors = tensors.data();
    op.tensor_count = static_cast<int32_t>(tensors.size());
    op.step = step;
    op.eight_bit = eight_bit;
    ops::adamw(*device_, op);
  }
}

}  // namespace lowrank
