// Operands of op tests in device memory: random, with padding between rows whose integrity is
// checked. Values depend on the key and the element only, so two devices see the same numbers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "core/dtype.h"

namespace lowrank::test {

// Rounds to `dtype` and back.
double rounded(double value, DType dtype);

// Element `index` of a standard normal stream.
double normal(uint64_t key, int64_t index);

// A matrix with `padding` extra elements after each row. By default rows of a multiple of 8
// elements begin at multiples of 8, as vector loads want them, and others anywhere.
class TestMatrix {
 public:
  // Normal with this deviation; deviation 0 gives zeros.
  TestMatrix(std::shared_ptr<Device> device, int64_t rows, int64_t cols, DType dtype, uint64_t key,
             double deviation = 1, int64_t padding = -1);

  const Matrix& matrix() const { return matrix_; }
  // What the device holds now, row by row without padding.
  std::vector<double> values() const;
  // True while the padding holds what it held at first.
  bool padding_intact() const;
  void set(const std::vector<double>& values);

 private:
  std::vector<uint8_t> download() const;
  Buffer buffer_;
  Matrix matrix_;
};

// A flat f32 array.
class TestVector {
 public:
  TestVector(std::shared_ptr<Device> device, int64_t count, uint64_t key, double deviation = 1,
             double mean = 0);
  TestVector(std::shared_ptr<Device> device, const std::vector<double>& values);
  float* data() const { return buffer_.as<float>(); }
  std::vector<double> values() const;

 private:
  int64_t count_;
  Buffer buffer_;
};

// A flat int32 array.
class TestIndices {
 public:
  TestIndices(std::shared_ptr<Device> device, const std::vector<int32_t>& values);
  const int32_t* data() const { return buffer_.as<int32_t>(); }

 private:
  Buffer buffer_;
};

// A weight of any storage type with values of about this deviation; NF4 with or without double
// quantization has random codes and scales, so that no quantizer is needed.
class TestWeight {
 public:
  TestWeight(std::shared_ptr<Device> device, int64_t rows, int64_t cols, Storage storage,
             bool double_quant, uint64_t key, double deviation);
  const Weight& weight() const { return weight_; }
  // The values, row by row, decoded on the host.
  const std::vector<double>& values() const { return values_; }

 private:
  void add(std::shared_ptr<Device> device, const void* from, size_t bytes);
  std::vector<Buffer> buffers_;
  Weight weight_;
  std::vector<double> values_;
};

// Workspace of this size, or none.
class TestWorkspace {
 public:
  TestWorkspace(std::shared_ptr<Device> device, size_t bytes) : buffer_(std::move(device), bytes) {}
  void* data() const { return buffer_.data(); }
  size_t bytes() const { return buffer_.bytes(); }

 private:
  Buffer buffer_;
};

}  // namespace lowrank::test
