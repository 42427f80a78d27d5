#include "cpu/quantization_parts.h"

#include "cpu/reference/adamw_8bit.h"

namespace lowrank::cpu {

void quantize_8bit_block(const float* values, int64_t count, float offset, uint8_t* codes,
                         float* absmax) {
  reference::quantize_8bit_block(
      signed_dynamic_map(), count, kNf4NestedBlock, [&](int64_t i) { return values[i] - offset; },
      codes, absmax);
}

AdamWScalars adamw_scalars(const AdamW& op, const AdamWTensor& tensor) {
  return reference::adamw_scalars(op, tensor);
}

void adamw_8bit_block(const AdamWScalars& scalars, const AdamWTensor& tensor, int64_t block) {
  reference::adamw_8bit_block(scalars, tensor, block);
}

}  // namespace lowrank::cpu
