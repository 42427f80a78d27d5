#include "support/operands.h"

#include <cmath>
#include <cstring>

#include "core/dynamic_map.h"
#include "core/random.h"
#include "cpu/reference/weight.h"

namespace lowrank::test {
namespace {

constexpr double kPadding = -12345;  // exact in every float type

void put(uint8_t* to, DType dtype, double value) {
  const float single = static_cast<float>(value);
  if (dtype == DType::kF32) {
    std::memcpy(to, &single, 4);
  } else if (dtype == DType::kBF16) {
    const BF16 half = to_bf16(single);
    std::memcpy(to, &half, 2);
  } else {
    const F16 half = to_f16(single);
    std::memcpy(to, &half, 2);
  }
}

double get(const uint8_t* from, DType dtype) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, from, 4);
    return static_cast<double>(value);
  }
  uint16_t bits;
  std::memcpy(&bits, from, 2);
  return static_cast<double>(dtype == DType::kBF16 ? to_float(BF16{bits}) : to_float(F16{bits}));
}

DType float_type(Storage storage) {
  if (storage == Storage::kBF16) return DType::kBF16;
  return storage == Storage::kF16 ? DType::kF16 : DType::kF32;
}

uint64_t key_of(uint64_t key) { return random_key(key, RandomUse::kTest); }

}  // namespace

double rounded(double value, DType dtype) {
  uint8_t bytes[4];
  put(bytes, dtype, value);
  return get(bytes, dtype);
}

double normal(uint64_t key, int64_t index) {
  return static_cast<double>(random_normal(key_of(key), static_cast<uint64_t>(index)));
}

TestMatrix::TestMatrix(std::shared_ptr<Device> device, int64_t rows, int64_t cols, DType dtype,
                       uint64_t key, double deviation, int64_t padding) {
  if (padding < 0) padding = cols % 8 == 0 ? 8 : 3;
  const int64_t stride = cols + padding;
  buffer_ = Buffer(std::move(device), static_cast<size_t>(rows * stride) * dtype_size(dtype));
  matrix_ = {buffer_.data(), dtype, rows, cols, stride};
  std::vector<double> values(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < values.size() && deviation != 0; ++i)
    values[i] = deviation * normal(key, static_cast<int64_t>(i));
  set(values);
}

void TestMatrix::set(const std::vector<double>& values) {
  const size_t size = dtype_size(matrix_.dtype);
  std::vector<uint8_t> bytes(buffer_.bytes());
  for (int64_t row = 0; row < matrix_.rows; ++row) {
    for (int64_t col = 0; col < matrix_.stride; ++col) {
      put(&bytes[static_cast<size_t>(row * matrix_.stride + col) * size], matrix_.dtype,
          col < matrix_.cols ? values[static_cast<size_t>(row * matrix_.cols + col)] : kPadding);
    }
  }
  buffer_.upload(bytes.data(), bytes.size());
}

std::vector<uint8_t> TestMatrix::download() const {
  std::vector<uint8_t> bytes(buffer_.bytes());
  buffer_.download(bytes.data(), bytes.size());
  return bytes;
}

std::vector<double> TestMatrix::values() const {
  const std::vector<uint8_t> bytes = download();
  const size_t size = dtype_size(matrix_.dtype);
  std::vector<double> values;
  for (int64_t row = 0; row < matrix_.rows; ++row) {
    for (int64_t col = 0; col < matrix_.cols; ++col)
      values.push_back(
          get(&bytes[static_cast<size_t>(row * matrix_.stride + col) * size], matrix_.dtype));
  }
  return values;
}

bool TestMatrix::padding_intact() const {
  const std::vector<uint8_t> bytes = download();
  const size_t size = dtype_size(matrix_.dtype);
  for (int64_t row = 0; row < matrix_.rows; ++row) {
    for (int64_t col = matrix_.cols; col < matrix_.stride; ++col) {
      if (get(&bytes[static_cast<size_t>(row * matrix_.stride + col) * size], matrix_.dtype) !=
          rounded(kPadding, matrix_.dtype))
        return false;
    }
  }
  return true;
}

TestVector::TestVector(std::shared_ptr<Device> device, int64_t count, uint64_t key,
                       double deviation, double mean)
    : count_(count), buffer_(std::move(device), static_cast<size_t>(count) * 4) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    values[static_cast<size_t>(i)] = static_cast<float>(mean + deviation * normal(key, i));
  buffer_.upload(values.data(), values.size() * 4);
}

TestVector::TestVector(std::shared_ptr<Device> device, const std::vector<double>& values)
    : count_(static_cast<int64_t>(values.size())), buffer_(std::move(device), values.size() * 4) {
  const std::vector<float> singles(values.begin(), values.end());
  buffer_.upload(singles.data(), singles.size() * 4);
}

std::vector<double> TestVector::values() const {
  std::vector<float> singles(static_cast<size_t>(count_));
  buffer_.download(singles.data(), singles.size() * 4);
  return {singles.begin(), singles.end()};
}

TestIndices::TestIndices(std::shared_ptr<Device> device, const std::vector<int32_t>& values)
    : buffer_(std::move(device), values.size() * 4) {
  buffer_.upload(values.data(), values.size() * 4);
}

void TestWeight::add(std::shared_ptr<Device> device, const void* from, size_t bytes) {
  buffers_.emplace_back(std::move(device), bytes);
  buffers_.back().upload(from, bytes);
}

TestWeight::TestWeight(std::shared_ptr<Device> device, int64_t rows, int64_t cols, Storage storage,
                       bool double_quant, uint64_t key, double deviation) {
  const auto count = static_cast<size_t>(rows * cols);
  weight_.storage = storage;
  weight_.rows = rows;
  weight_.cols = cols;
  Weight host = weight_;
  const auto random = [&](size_t i, uint64_t use) { return random_bits(key_of(key) + use, i); };
  if (storage == Storage::kNF4) {
    const size_t blocks = (count + kNf4Block - 1) / kNf4Block;
    const size_t nested = (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock;
    std::vector<uint8_t> codes((count + 1) / 2), absmax_codes(blocks);
    std::vector<float> absmax(blocks), nested_absmax(nested), nested_code(256);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(random(i, 1));
    for (size_t i = 0; i < blocks; ++i) {
      absmax[i] = static_cast<float>(deviation * (1 + random(i, 2) * 0x1p-32));
      absmax_codes[i] = static_cast<uint8_t>(random(i, 3));
    }
    for (size_t i = 0; i < nested; ++i)
      nested_absmax[i] = static_cast<float>(deviation * (0.5 + random(i, 4) * 0x1p-33));
    for (size_t i = 0; i < 256; ++i) nested_code[i] = signed_dynamic_map().values[i];
    host.data = codes.data();
    add(device, codes.data(), codes.size());
    weight_.data = buffers_.back().data();
    if (double_quant) {
      weight_.nested_offset = host.nested_offset = static_cast<float>(1.5 * deviation);
      host.absmax_codes = absmax_codes.data();
      host.nested_absmax = nested_absmax.data();
      host.nested_code = nested_code.data();
      add(device, absmax_codes.data(), blocks);
      weight_.absmax_codes = buffers_.back().as<uint8_t>();
      add(device, nested_absmax.data(), nested * 4);
      weight_.nested_absmax = buffers_.back().as<float>();
      add(device, nested_code.data(), 1024);
      weight_.nested_code = buffers_.back().as<float>();
    } else {
      host.absmax = absmax.data();
      add(device, absmax.data(), blocks * 4);
      weight_.absmax = buffers_.back().as<float>();
    }
    for (size_t i = 0; i < count; ++i)
      values_.push_back(
          static_cast<double>(reference::weight_value(host, static_cast<int64_t>(i))));
    return;
  }
  if (storage == Storage::kInt8) {
    std::vector<int8_t> codes(count);
    std::vector<float> scales(static_cast<size_t>(rows));
    for (size_t i = 0; i < count; ++i) codes[i] = static_cast<int8_t>(random(i, 5));
    for (size_t i = 0; i < scales.size(); ++i)
      scales[i] = static_cast<float>(deviation * (0.01 + random(i, 6) * 0x1p-39));
    for (size_t i = 0; i < count; ++i)
      values_.push_back(static_cast<double>(static_cast<float>(codes[i]) *
                                            scales[i / static_cast<size_t>(cols)]));
    add(device, codes.data(), count);
    weight_.data = buffers_.back().data();
    add(device, scales.data(), scales.size() * 4);
    weight_.row_scale = buffers_.back().as<float>();
    return;
  }
  const DType dtype = float_type(storage);
  const size_t size = dtype_size(dtype);
  std::vector<uint8_t> bytes(count * size);
  for (size_t i = 0; i < count; ++i) {
    put(&bytes[i * size], dtype, deviation * normal(key, static_cast<int64_t>(i)));
    values_.push_back(get(&bytes[i * size], dtype));
  }
  add(device, bytes.data(), bytes.size());
  weight_.data = buffers_.back().data();
}

}  // namespace lowrank::test
