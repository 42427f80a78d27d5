// Scalar AdamW with 8-bit block-wise states (Dettmers et al., arXiv 2110.02861): each step decodes
// m and v, updates them in f32, moves the parameters by the exact new states, and encodes the
// states again with the block's new absmax. Order of bias correction, eps and weight decay is that
// of bitsandbytes on the CPU, which is the formula in backend.h; bitsandbytes' CUDA kernel decays
// after the update instead of before, and moves a code of m that rounded to the other sign by one.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "backend/backend.h"
#include "core/dynamic_map.h"
#include "cpu/quantization_parts.h"
#include "cpu/reference/nf4.h"

namespace lowrank::reference {

inline AdamWScalars adamw_scalars(const AdamW& op, const AdamWTensor& tensor) {
  const double step = static_cast<double>(op.step);
  const double beta1 = op.beta1, beta2 = op.beta2;
  const double lr = static_cast<double>(tensor.learning_rate);
  AdamWScalars s;
  s.beta1 = static_cast<float>(beta1);
  s.one_minus_beta1 = static_cast<float>(1 - beta1);
  s.beta2 = static_cast<float>(beta2);
  s.one_minus_beta2 = static_cast<float>(1 - beta2);
  s.grad_scale = op.grad_scale;
  s.decay = static_cast<float>(1 - lr * static_cast<double>(tensor.weight_decay));
  s.step_size = static_cast<float>(lr / (1 - std::pow(beta1, step)));
  s.v_correction = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, step)));
  s.eps = static_cast<float>(op.eps);
  return s;
}

// Block `block` of a tensor.
inline void adamw_8bit_block(const AdamWScalars& s, const AdamWTensor& tensor, int64_t block) {
  const int64_t begin = block * kOptimizerBlock;
  const int64_t count = std::min(kOptimizerBlock, tensor.count - begin);
  const DynamicMap& m_map = signed_dynamic_map();
  const DynamicMap& v_map = unsigned_dynamic_map();
  uint8_t* m_codes = tensor.m_codes + begin;
  uint8_t* v_codes = tensor.v_codes + begin;
  float m[kOptimizerBlock], v[kOptimizerBlock];
  for (int64_t i = 0; i < count; ++i) {
    const float g = tensor.gradient[begin + i] * s.grad_scale;
    m[i] = s.beta1 * (m_map.values[m_codes[i]] * tensor.m_absmax[block]) + s.one_minus_beta1 * g;
    v[i] =
        s.beta2 * (v_map.values[v_codes[i]] * tensor.v_absmax[block]) + s.one_minus_beta2 * (g * g);
    const float update = m[i] / (std::sqrt(v[i]) * s.v_correction + s.eps);
    float& parameter = tensor.parameter[begin + i];
    parameter = parameter * s.decay - s.step_size * update;
    tensor.gradient[begin + i] = 0;
  }
  quantize_8bit_block(
      m_map, count, kOptimizerBlock, [&](int64_t i) { return m[i]; }, m_codes,
      &tensor.m_absmax[block]);
  quantize_8bit_block(
      v_map, count, kOptimizerBlock, [&](int64_t i) { return v[i]; }, v_codes,
      &tensor.v_absmax[block]);
}

inline void adamw_8bit(const AdamW& op) {
  for (int32_t t = 0; t < op.tensor_count; ++t) {
    const AdamWScalars scalars = adamw_scalars(op, op.tensors[t]);
    const int64_t blocks = (op.tensors[t].count + kOptimizerBlock - 1) / kOptimizerBlock;
    for (int64_t block = 0; block < blocks; ++block)
      adamw_8bit_block(scalars, op.tensors[t], block);
  }
}

}  // namespace lowrank::reference
