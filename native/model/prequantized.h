// Block linears that a file already holds as NF4, in bitsandbytes' layout: X.weight as bytes and
// X.weight.absmax, .quant_map, .quant_state.bitsandbytes__nf4 (JSON), .nested_absmax,
// .nested_quant_map beside it.
#pragma once

#include <string>
#include <vector>

#include "io/sharded.h"
#include "model/weights.h"

namespace lowrank {

// Whether this tensor holds quantized codes.
bool is_prequantized(const ShardedTensors& tensors, const std::string& name);

// Names of the tensors beside `name` that belong to it.
std::vector<std::string> prequantized_companions(const ShardedTensors& tensors,
                                                 const std::string& name);

// Mapped where the device reads host memory, else uploaded; true with double quantization.
// Throws Error{kUnsupported} for another code book or block size and Error{kInvalidFile} for
// tensors that don't fit together.
bool place_prequantized(const std::shared_ptr<Device>& device, const ShardedTensors& tensors,
                        int64_t rows, int64_t cols, WeightMatrix* matrix);

// What quantization_config says about the stored weights: kNf4, kNf4Double, or kNone without one.
// Throws as without_quantization_config.
Quantization stored_quantization(const std::string& config_json, const std::string& where);

// `config_json` without its quantization_config, which the tensors themselves answer for. Throws
// Error{kUnsupported} when the folder was quantized by something else than bitsandbytes in 4 bits.
std::string without_quantization_config(const std::string& config_json, const std::string& where);

}  // namespace lowrank
