// Brings one tensor from host memory to the device in the form that training wants it.
#pragma once

#include <memory>

#include "model/weights.h"

namespace lowrank {

// A tensor's values in host memory: f32, bf16 or f16.
struct HostTensor {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t count = 0;
};

enum class Placement : uint8_t {
  kMap,        // leave it where it is when the device reads host memory, else upload; its own type
  kUpload,     // a copy of its own type
  kMaster,     // an f32 copy
  kNf4,        // codes and f32 absmax
  kNf4Double,  // codes and nested absmax
};

// The type of storage that keeps a file's type; throws Error{kUnsupported} at `where` for a type
// that can't be a weight.
Storage storage_of_tensor(DType dtype, const std::string& where);

// `matrix->name` is set already; throws Error{kOutOfMemory} or Error{kBackend}. kNf4Double needs
// `nested_code`, see make_nested_code().
void place_matrix(const std::shared_ptr<Device>& device, const HostTensor& source, int64_t rows,
                  int64_t cols, Placement placement, const Buffer& nested_code,
                  WeightMatrix* matrix);

// As f32.
void place_vector(const std::shared_ptr<Device>& device, const HostTensor& source,
                  WeightVector* vector);

// The code book of double quantization's second level, on the device.
Buffer make_nested_code(const std::shared_ptr<Device>& device);

// f32 values of `count` elements from host memory.
void to_floats(const void* from, DType dtype, int64_t count, float* to);
// The reverse, rounding to nearest even.
void from_floats(const float* from, int64_t count, DType dtype, void* to);

// Elements of `weight` as f32 on the device, written to `to`.
void weight_to_f32(const Device& device, const Weight& weight, float* to);

}  // namespace lowrank
