// Scalar pieces of block-wise quantization and 8-bit AdamW that the fast kernels call, because
// units compiled for one instruction set can't include the reference.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace lowrank {

// The constants of one tensor's step, computed in f64 and rounded once. Every path multiplies and
// adds these in the same order without fusing, so that all instruction sets give the same bits.
struct AdamWScalars {
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float grad_scale;
  float decay;         // 1 - lr * weight_decay
  float step_size;     // lr / (1 - beta1^step)
  float v_correction;  // 1 / sqrt(1 - beta2^step)
  float eps;
};

namespace cpu {

// 8-bit codes of values[i] - offset for `count` <= kNf4NestedBlock values, and their absmax.
void quantize_8bit_block(const float* values, int64_t count, float offset, uint8_t* codes,
                         float* absmax);

AdamWScalars adamw_scalars(const AdamW& op, const AdamWTensor& tensor);

// Scalar step of block `block` of a tensor, which may be shorter than kOptimizerBlock.
void adamw_8bit_block(const AdamWScalars& scalars, const AdamWTensor& tensor, int64_t block);

}  // namespace cpu
}  // namespace lowrank
