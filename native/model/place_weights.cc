#include "model/place_weights.h"

#include <cstring>
#include <vector>

#include "core/dynamic_map.h"
#include "core/error.h"
#include "ops/cast.h"

namespace lowrank {
namespace {

// The host's values where the device can read them: in place, or uploaded to `staging`.
const void* device_source(const std::shared_ptr<Device>& device, const HostTensor& source,
                          Buffer* staging) {
  const size_t bytes = static_cast<size_t>(source.count) * dtype_size(source.dtype);
  const auto address = reinterpret_cast<uintptr_t>(source.data);
  if (device->backend().host_memory && address % dtype_size(source.dtype) == 0) return source.data;
  *staging = Buffer(device, bytes);
  staging->upload(source.data, bytes);
  return staging->data();
}

template <typename T>
void widen(const void* from, int64_t count, float* to) {
  const auto* bytes = static_cast<const uint8_t*>(from);
  for (int64_t i = 0; i < count; ++i) {
    T value;  // the source may be unaligned
    std::memcpy(&value, bytes + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    to[i] = to_float(value);
  }
}

template <typename T>
void narrow(const float* from, int64_t count, void* to) {
  auto* out = static_cast<T*>(to);
  for (int64_t i = 0; i < count; ++i) out[i] = from_float<T>(from[i]);
}

void quantize(const std::shared_ptr<Device>& device, const HostTensor& source, bool nested,
              const Buffer& nested_code, WeightMatrix* matrix) {
  const int64_t blocks = (source.count + kNf4Block - 1) / kNf4Block;
  Buffer staging;
  QuantizeNf4 op;
  op.from = device_source(device, source, &staging);
  op.from_dtype = source.dtype;
  op.count = source.count;
  matrix->data = Buffer(device, static_cast<size_t>((source.count + 1) / 2));
  Buffer absmax(device, static_cast<size_t>(blocks) * sizeof(float));
  op.codes = matrix->data.as<uint8_t>();
  op.absmax = absmax.as<float>();
  ops::quantize_nf4(*device, op);
  matrix->view.storage = Storage::kNF4;
  matrix->view.data = matrix->data.data();
  if (!nested) {
    matrix->absmax = std::move(absmax);
    matrix->view.absmax = matrix->absmax.as<const float>();
    return;
  }
  const int64_t groups = (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
  matrix->absmax = Buffer(device, static_cast<size_t>(blocks));
  matrix->nested_absmax = Buffer(device, static_cast<size_t>(groups) * sizeof(float));
  QuantizeAbsmax second;
  second.absmax = absmax.as<const float>();
  second.count = blocks;
  second.codes = matrix->absmax.as<uint8_t>();
  second.nested_absmax = matrix->nested_absmax.as<float>();
  second.offset = &matrix->view.nested_offset;
  ops::quantize_absmax(*device, second);
  matrix->view.absmax_codes = matrix->absmax.as<const uint8_t>();
  matrix->view.nested_absmax = matrix->nested_absmax.as<const float>();
  matrix->view.nested_code = nested_code.as<const float>();
}

}  // namespace

Storage storage_of_tensor(DType dtype, const std::string& where) {
  switch (dtype) {
    case DType::kF32:
      return Storage::kF32;
    case DType::kBF16:
      return Storage::kBF16;
    case DType::kF16:
      return Storage::kF16;
    default:
      throw Error(ErrorCode::kUnsupported,
                  std::string("weights of type ") + dtype_name(dtype) + " can't be used", where,
                  "the engine reads f32, bf16 and f16 weights, and NF4 as bitsandbytes writes it");
  }
}

void place_matrix(const std::shared_ptr<Device>& device, const HostTensor& source, int64_t rows,
                  int64_t cols, Placement placement, const Buffer& nested_code,
                  WeightMatrix* matrix) {
  matrix->view.rows = rows;
  matrix->view.cols = cols;
  const size_t bytes = static_cast<size_t>(source.count) * dtype_size(source.dtype);
  switch (placement) {
    case Placement::kMap: {
      const auto address = reinterpret_cast<uintptr_t>(source.data);
      if (device->backend().host_memory && address % dtype_size(source.dtype) == 0) {
        matrix->view.storage = storage_of_tensor(source.dtype, matrix->name);
        matrix->view.data = source.data;
        return;
      }
      [[fallthrough]];
    }
    case Placement::kUpload:
      matrix->view.storage = storage_of_tensor(source.dtype, matrix->name);
      matrix->data = Buffer(device, bytes);
      matrix->data.upload(source.data, bytes);
      matrix->view.data = matrix->data.data();
      return;
    case Placement::kMaster: {
      Buffer staging;
      Cast op;
      op.from = device_source(device, source, &staging);
      op.from_dtype = source.dtype;
      op.count = source.count;
      matrix->data = Buffer(device, static_cast<size_t>(source.count) * sizeof(float));
      op.to = matrix->data.data();
      op.to_dtype = DType::kF32;
      ops::cast(*device, op);
      matrix->view.storage = Storage::kF32;
      matrix->view.data = matrix->data.data();
      return;
    }
    case Placement::kNf4:
    case Placement::kNf4Double:
      quantize(device, source, placement == Placement::kNf4Double, nested_code, matrix);
      return;
  }
}

void place_vector(const std::shared_ptr<Device>& device, const HostTensor& source,
                  WeightVector* vector) {
  std::vector<float> values(static_cast<size_t>(source.count));
  to_floats(source.data, source.dtype, source.count, values.data());
  vector->count = source.count;
  vector->data = Buffer(device, values.size() * sizeof(float));
  vector->data.upload(values.data(), values.size() * sizeof(float));
}

Buffer make_nested_code(const std::shared_ptr<Device>& device) {
  const DynamicMap& map = signed_dynamic_map();
  Buffer code(device, sizeof map.values);
  code.upload(map.values.data(), sizeof map.values);
  return code;
}

void to_floats(const void* from, DType dtype, int64_t count, float* to) {
  switch (storage_of_tensor(dtype, {})) {
    case Storage::kBF16:
      return widen<BF16>(from, count, to);
    case Storage::kF16:
      return widen<F16>(from, count, to);
    default:
      return widen<float>(from, count, to);
  }
}

void from_floats(const float* from, int64_t count, DType dtype, void* to) {
  switch (storage_of_tensor(dtype, {})) {
    case Storage::kBF16:
      return narrow<BF16>(from, count, to);
    case Storage::kF16:
      return narrow<F16>(from, count, to);
    default:
      std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
  }
}

void weight_to_f32(const Device& device, const Weight& weight, float* to) {
  Dequantize op;
  op.weight = weight;
  op.to = to;
  op.to_dtype = DType::kF32;
  ops::dequantize(device, op);
}

}  // namespace lowrank
