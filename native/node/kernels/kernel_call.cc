#include "node/kernels/kernel_call.h"

#include <chrono>
#include <cstring>
#include <optional>

#include "core/dynamic_map.h"

namespace lowrank::node {

namespace {

constexpr int64_t kMaxCount = int64_t{1} << 40;

std::optional<napi_typedarray_type> array_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return napi_float32_array;
    case DType::kBF16:
    case DType::kF16:
      return napi_uint16_array;
    case DType::kI32:
      return napi_int32_array;
    case DType::kU8:
      return napi_uint8_array;
    case DType::kI8:
      return napi_int8_array;
    case DType::kI64:
      break;
  }
  return std::nullopt;
}

const char* array_name(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
    case DType::kF16:
      return "Uint16Array";
    case DType::kI32:
      return "Int32Array";
    case DType::kU8:
      return "Uint8Array";
    case DType::kI8:
      return "Int8Array";
    default:
      return "Float32Array";
  }
}

KernelArray copy_array(OptionsReader& args, const char* key, DType dtype) {
  const Napi::Value value = args.value(key);
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != array_type(dtype)) {
    args.fail(key, std::string("must be a ") + array_name(dtype));
  }
  const auto typed = value.As<Napi::TypedArray>();
  if (typed.ElementLength() == 0) args.fail(key, "is empty");
  const auto* bytes = static_cast<const uint8_t*>(typed.ArrayBuffer().Data()) + typed.ByteOffset();
  KernelArray array;
  array.dtype = dtype;
  array.rows = 1;
  array.cols = static_cast<int64_t>(typed.ElementLength());
  array.host.assign(bytes, bytes + typed.ByteLength());
  array.input = true;
  return array;
}

DType stored_dtype(Storage storage) {
  switch (storage) {
    case Storage::kBF16:
      return DType::kBF16;
    case Storage::kF16:
      return DType::kF16;
    case Storage::kNF4:
      return DType::kU8;
    case Storage::kInt8:
      return DType::kI8;
    case Storage::kF32:
      break;
  }
  return DType::kF32;
}

int64_t ceil_divide(int64_t count, int64_t by) { return (count + by - 1) / by; }

}  // namespace

Weight KernelWeight::weight() const {
  Weight weight;
  weight.data = data->buffer.data();
  weight.storage = storage;
  weight.rows = rows;
  weight.cols = cols;
  weight.absmax = pointer<float>(absmax);
  weight.absmax_codes = pointer<uint8_t>(absmax_codes);
  weight.nested_absmax = pointer<float>(nested_absmax);
  weight.nested_code = pointer<float>(nested_code);
  weight.nested_offset = nested_offset;
  weight.row_scale = pointer<float>(row_scale);
  return weight;
}

KernelArray* KernelCall::add(KernelArray array) {
  arrays_.push_back(std::move(array));
  return &arrays_.back();
}

KernelArray* KernelCall::vector(OptionsReader& args, const char* key, DType dtype, int64_t count) {
  KernelArray array = copy_array(args, key, dtype);
  if (count >= 0 && array.cols != count) {
    args.fail(key,
              "has " + std::to_string(array.cols) + " elements, expected " + std::to_string(count));
  }
  return add(std::move(array));
}

KernelArray* KernelCall::optional(OptionsReader& args, const char* key, DType dtype,
                                  int64_t count) {
  return args.has(key) ? vector(args, key, dtype, count) : nullptr;
}

KernelArray* KernelCall::matrix(OptionsReader& args, const char* key) {
  OptionsReader fields = args.object(key);
  const Napi::Value data = fields.value("data");
  const bool half =
      data.IsTypedArray() && data.As<Napi::TypedArray>().TypedArrayType() == napi_uint16_array;
  DType dtype = half ? DType::kBF16 : DType::kF32;
  if (fields.has("dtype")) {
    dtype = fields.choice<DType>(
        "dtype", {{"f32", DType::kF32}, {"bf16", DType::kBF16}, {"f16", DType::kF16}});
  }
  const int64_t rows = fields.integer("rows", 1, kMaxCount);
  const int64_t cols = fields.integer("cols", 1, kMaxCount / rows);
  KernelArray* array = vector(fields, "data", dtype, rows * cols);
  fields.finish();
  array->rows = rows;
  array->cols = cols;
  return array;
}

KernelWeight KernelCall::weight(OptionsReader& args, const char* key) {
  OptionsReader fields = args.object(key);
  KernelWeight weight;
  weight.storage = fields.choice<Storage>("storage", {{"f32", Storage::kF32},
                                                      {"bf16", Storage::kBF16},
                                                      {"f16", Storage::kF16},
                                                      {"nf4", Storage::kNF4},
                                                      {"int8", Storage::kInt8}});
  weight.rows = fields.integer("rows", 1, kMaxCount);
  weight.cols = fields.integer("cols", 1, kMaxCount / weight.rows);
  const int64_t count = weight.rows * weight.cols;
  const int64_t blocks = ceil_divide(count, kNf4Block);
  const bool nf4 = weight.storage == Storage::kNF4;
  weight.data =
      vector(fields, "data", stored_dtype(weight.storage), nf4 ? ceil_divide(count, 2) : count);
  weight.absmax = optional(fields, "absmax", DType::kF32, blocks);
  weight.absmax_codes = optional(fields, "absmaxCodes", DType::kU8, blocks);
  weight.nested_absmax =
      optional(fields, "nestedAbsmax", DType::kF32, ceil_divide(blocks, kNf4NestedBlock));
  if (fields.has("nestedOffset")) {
    weight.nested_offset = static_cast<float>(fields.number("nestedOffset"));
  }
  weight.row_scale = optional(fields, "rowScale", DType::kF32, weight.rows);
  fields.finish();
  if (weight.absmax_codes) {
    const auto& values = signed_dynamic_map().values;
    KernelArray code{.rows = 1, .cols = static_cast<int64_t>(values.size()), .input = true};
    code.host.resize(sizeof values);
    std::memcpy(code.host.data(), values.data(), sizeof values);
    weight.nested_code = add(std::move(code));
  }
  return weight;
}

KernelArray* KernelCall::output(const char* name, DType dtype, int64_t rows, int64_t cols) {
  return add({.dtype = dtype, .rows = rows, .cols = cols, .output = name});
}

KernelArray* KernelCall::scratch(DType dtype, int64_t rows, int64_t cols) {
  return add({.dtype = dtype, .rows = rows, .cols = cols});
}

void* KernelCall::workspace(const std::shared_ptr<Device>& device, size_t bytes) {
  if (bytes > 0) workspace_ = Buffer(device, bytes);
  return workspace_.data();
}

void KernelCall::run(const std::shared_ptr<Device>& device, int64_t repeat) {
  for (KernelArray& array : arrays_) {
    array.buffer = Buffer(device, array.bytes());
    if (array.input) array.buffer.upload(array.host.data(), array.bytes());
  }
  const Op op = build(device);
  op();
  device->check(device->backend().synchronize(device->handle()), "synchronize");
  for (KernelArray& array : arrays_) {
    if (array.output.empty()) continue;
    array.host.resize(array.bytes());
    array.buffer.download(array.host.data(), array.bytes());
  }
  if (collect) collect();
  for (int64_t i = 0; i < repeat; ++i) {
    const auto start = std::chrono::steady_clock::now();
    op();
    device->check(device->backend().synchronize(device->handle()), "synchronize");
    seconds_.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  for (KernelArray& array : arrays_) array.buffer.reset();
  workspace_.reset();
}

Napi::Object KernelCall::results(Napi::Env env) const {
  Napi::Object object = Napi::Object::New(env);
  for (const KernelArray& array : arrays_) {
    if (array.output.empty()) continue;
    Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, array.host.size());
    std::memcpy(buffer.Data(), array.host.data(), array.host.size());
    napi_value typed = nullptr;
    if (napi_create_typedarray(env, *array_type(array.dtype), static_cast<size_t>(array.count()),
                               buffer, 0, &typed) != napi_ok) {
      throw Napi::Error::New(env);
    }
    object.Set(array.output, typed);
  }
  for (const auto& [name, value] : numbers) object.Set(name, value);
  Napi::Float64Array seconds = Napi::Float64Array::New(env, seconds_.size());
  std::copy(seconds_.begin(), seconds_.end(), seconds.Data());
  object.Set("seconds", seconds);
  return object;
}

}  // namespace lowrank::node
