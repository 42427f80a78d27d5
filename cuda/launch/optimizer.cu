#include "cuda/kernels/optimizer.cuh"

#include <cmath>
#include <stdexcept>
#include <vector>

#include "cuda/runtime.h"

namespace lowrank::cuda {
namespace {

AdamWWork work_for(const AdamW& op, const AdamWTensor& tensor, int64_t first_block) {
  const double step = static_cast<double>(op.step);
  const double lr = static_cast<double>(tensor.learning_rate);
  AdamWWork w;
  w.tensor = tensor;
  w.first_block = first_block;
  w.beta1 = static_cast<float>(op.beta1);
  w.one_minus_beta1 = static_cast<float>(1 - op.beta1);
  w.beta2 = static_cast<float>(op.beta2);
  w.one_minus_beta2 = static_cast<float>(1 - op.beta2);
  w.grad_scale = op.grad_scale;
  w.decay = static_cast<float>(1 - lr * static_cast<double>(tensor.weight_decay));
  w.step_size = static_cast<float>(lr / (1 - std::pow(op.beta1, step)));
  w.v_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(op.beta2, step)));
  w.eps = static_cast<float>(op.eps);
  return w;
}

}  // namespace

void adamw(CudaDevice& device, const AdamW& op) {
  const int64_t per_block = op.eight_bit ? kOptimizerBlock : kAdamWPerBlock;
  std::vector<AdamWWork> items;
  int64_t blocks = 0;
  for (int32_t i = 0; i < op.tensor_count; ++i) {
    if (op.tensors[i].count == 0) continue;
    items.push_back(work_for(op, op.tensors[i], blocks));
    blocks += divide_up(op.tensors[i].count, per_block);
  }
  const auto count = static_cast<int32_t>(items.size());
  const AdamWWork* staged = device.stage(items.data(), count);
  double* clip = device.partials;
  launch<NoShared>(device.stream, clip_scale_kernel, Grid{1}, 1, op.squared_norm, op.max_norm,
                   clip);
  const Grid grid{static_cast<unsigned>(blocks)};
  if (op.eight_bit)
    launch<CodeShared>(device.stream, adamw_8bit_kernel, grid, kCodeThreads, staged, count, clip,
                       device.tables);
  else
    launch<NoShared>(device.stream, adamw_kernel, grid, kCodeThreads, staged, count, clip);
}

void squared_norm(CudaDevice& device, const SquaredNorm& op) {
  std::vector<NormWork> items;
  int64_t blocks = 0;
  const auto add = [&](const float* values, int64_t values_count, bool only_finite) {
    if (values_count == 0) return;
    items.push_back({values, values_count, blocks, only_finite});
    blocks += divide_up(values_count, kNormPerBlock);
  };
  for (int32_t i = 0; i < op.tensor_count; ++i) add(op.tensors[i], op.counts[i], false);
  add(op.finite, op.finite_count, true);
  if (blocks > static_cast<int64_t>(kPartials))
    throw std::length_error("too many gradients for one norm");
  const auto count = static_cast<int32_t>(items.size());
  const NormWork* staged = device.stage(items.data(), count);
  launch<NormSumShared>(device.stream, squared_norm_kernel, Grid{static_cast<unsigned>(blocks)},
                        kNormSumThreads, staged, count, device.partials);
  launch<NormSumShared>(device.stream, sum_partials_kernel, Grid{1}, kNormSumThreads,
                        device.partials, blocks, op.result);
}

}  // namespace lowrank::cuda
