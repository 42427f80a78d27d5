// Conversions: between float types, from a weight of any storage type, and into NF4; see backend.h.
// Throws Error{kInvalidArgument} for arguments that break the contract.
#pragma once

#include "backend/device.h"

namespace lowrank::ops {

void cast(const Device& device, const Cast& op);
void dequantize(const Device& device, const Dequantize& op);
void quantize_nf4(const Device& device, const QuantizeNf4& op);
void quantize_absmax(const Device& device, const QuantizeAbsmax& op);

}  // namespace lowrank::ops
