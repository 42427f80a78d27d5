// One kernel call: typed arrays copied from JavaScript, device memory, the op, its outputs.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "node/options_reader.h"

namespace lowrank::node {

// Row-major without padding; a vector has one row.
struct KernelArray {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<uint8_t> host = {};  // an input's bytes; later an output's
  bool input = false;
  std::string output = {};  // name of the result; empty = not returned
  Buffer buffer = {};

  int64_t count() const { return rows * cols; }
  size_t bytes() const { return static_cast<size_t>(count()) * dtype_size(dtype); }
  Matrix matrix() const { return {buffer.data(), dtype, rows, cols, cols}; }
};

// The array's device memory; null when the array is.
template <typename T>
T* pointer(const KernelArray* array) {
  return array ? array->buffer.as<T>() : nullptr;
}

struct KernelWeight {
  Storage storage = Storage::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const KernelArray* data = nullptr;
  const KernelArray* absmax = nullptr;
  const KernelArray* absmax_codes = nullptr;
  const KernelArray* nested_absmax = nullptr;
  const KernelArray* nested_code = nullptr;
  const KernelArray* row_scale = nullptr;
  float nested_offset = 0;

  Weight weight() const;
};

class KernelCall {
 public:
  using Op = std::function<void()>;

  // On the JavaScript thread; arrays keep their address.
  // {data, dtype?, rows, cols}: dtype is f32 for a Float32Array, bf16 for a Uint16Array unless it
  // says f16.
  KernelArray* matrix(OptionsReader& args, const char* key);
  // A typed array of `count` elements (-1 = any number, at least one).
  KernelArray* vector(OptionsReader& args, const char* key, DType dtype, int64_t count = -1);
  // The same, or null when the key isn't there.
  KernelArray* optional(OptionsReader& args, const char* key, DType dtype, int64_t count = -1);
  KernelWeight weight(OptionsReader& args, const char* key);
  KernelArray* output(const char* name, DType dtype, int64_t rows, int64_t cols);
  // Memory that isn't returned.
  KernelArray* scratch(DType dtype, int64_t rows, int64_t cols);
  // Set by the kernel: called on the worker once the arrays stand on the device, returns the op.
  std::function<Op(const std::shared_ptr<Device>&)> build;

  // On the worker: uploads, runs once for the results, then `repeat` times for the clock.
  void run(const std::shared_ptr<Device>& device, int64_t repeat);
  // For `build`: device memory of this size, null for 0.
  void* workspace(const std::shared_ptr<Device>& device, size_t bytes);
  // Results that are numbers; read after run().
  std::map<std::string, double> numbers;
  // Called after the first run, to fill `numbers`.
  std::function<void()> collect;

  Napi::Object results(Napi::Env env) const;

 private:
  KernelArray* add(KernelArray array);

  std::deque<KernelArray> arrays_;
  Buffer workspace_;
  std::vector<double> seconds_;
};

}  // namespace lowrank::node
