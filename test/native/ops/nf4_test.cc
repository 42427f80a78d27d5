// NF4 and double quantization, bit for bit against fixtures made by bitsandbytes' definition
// (test/golden/quantization_fixture.py), and every fast path against the scalar reference.
#include <cmath>
#include <limits>

#include "core/dynamic_map.h"
#include "core/nf4.h"
#include "core/random.h"
#include "ops/quantization_support.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

const char* torch_name(DType dtype) {
  return dtype == DType::kBF16 ? "bfloat16" : dtype == DType::kF16 ? "float16" : "float32";
}

std::vector<uint8_t> converted(const std::vector<float>& x, DType dtype) {
  std::vector<uint8_t> bytes(x.size() * dtype_size(dtype));
  for (size_t i = 0; i < x.size(); ++i) {
    const BF16 as_bf16 = to_bf16(x[i]);
    const F16 as_f16 = to_f16(x[i]);
    const void* from = dtype == DType::kBF16  ? static_cast<const void*>(&as_bf16)
                       : dtype == DType::kF16 ? static_cast<const void*>(&as_f16)
                                              : static_cast<const void*>(&x[i]);
    std::memcpy(bytes.data() + i * dtype_size(dtype), from, dtype_size(dtype));
  }
  return bytes;
}

struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> absmax;
};

using DevicePointer = std::shared_ptr<Device>;

Quantized quantize(const DevicePointer& device, const std::vector<float>& x, DType dtype) {
  const TestArray<uint8_t> from(device, converted(x, dtype));
  const TestArray<uint8_t> codes(device, std::vector<uint8_t>((x.size() + 1) / 2));
  const TestArray<float> absmax(device, std::vector<float>((x.size() + 63) / 64));
  QuantizeNf4 op;
  op.from = from.data();
  op.from_dtype = dtype;
  op.count = static_cast<int64_t>(x.size());
  op.codes = codes.data();
  op.absmax = absmax.data();
  device->check(device->backend().quantize_nf4(device->handle(), &op), "quantize_nf4");
  return {codes.values(), absmax.values()};
}

// Of a weight that lies in host memory.
std::vector<uint8_t> dequantize(const DevicePointer& device, const Weight& weight, DType dtype) {
  const auto count = static_cast<size_t>(weight.rows * weight.cols), blocks = (count + 63) / 64;
  const auto copied = [&](auto* from, size_t values) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
    return TestArray<T>(device, from, from ? values : 0);
  };
  const auto codes = copied(static_cast<const uint8_t*>(weight.data), (count + 1) / 2);
  const auto absmax = copied(weight.absmax, blocks);
  const auto absmax_codes = copied(weight.absmax_codes, blocks);
  const auto nested_absmax = copied(weight.nested_absmax, (blocks + 255) / 256);
  const auto nested_code = copied(weight.nested_code, 256);
  const TestArray<uint8_t> to(device, std::vector<uint8_t>(count * dtype_size(dtype)));
  Dequantize op;
  op.weight = weight;
  op.weight.data = codes.data();
  if (weight.absmax) op.weight.absmax = absmax.data();
  if (weight.absmax_codes) op.weight.absmax_codes = absmax_codes.data();
  if (weight.nested_absmax) op.weight.nested_absmax = nested_absmax.data();
  if (weight.nested_code) op.weight.nested_code = nested_code.data();
  op.to = to.data();
  op.to_dtype = dtype;
  device->check(device->backend().dequantize(device->handle(), &op), "dequantize");
  return to.values();
}

Weight nf4_weight(const Quantized& q, int64_t rows, int64_t cols) {
  Weight weight;
  weight.data = q.codes.data();
  weight.storage = Storage::kNF4;
  weight.rows = rows;
  weight.cols = cols;
  weight.absmax = q.absmax.data();
  return weight;
}

struct Nested {
  std::vector<uint8_t> codes;
  std::vector<float> absmax;
  float offset = 0;
};

Nested quantize_absmax(const DevicePointer& device, const std::vector<float>& values) {
  const TestArray<float> from(device, values);
  const TestArray<uint8_t> codes(device, std::vector<uint8_t>(values.size()));
  const TestArray<float> absmax(device, std::vector<float>((values.size() + 255) / 256));
  float offset = 0;
  QuantizeAbsmax op;
  op.absmax = from.data();
  op.count = static_cast<int64_t>(values.size());
  op.codes = codes.data();
  op.nested_absmax = absmax.data();
  op.offset = &offset;
  device->check(device->backend().quantize_absmax(device->handle(), &op), "quantize_absmax");
  return {codes.values(), absmax.values(), offset};
}

// Normal values, some of them at extremes, `count` of them.
std::vector<float> mixed_values(size_t count) {
  std::vector<float> x(count);
  const uint64_t key = random_key(5, RandomUse::kTest);
  for (size_t i = 0; i < count; ++i) {
    x[i] = random_normal(key, i) * 0.02f;
    if (i % 911 == 5) x[i] = -0.0f;
    if (i / 64 == 7) x[i] = 0;
    if (i / 64 == 9) x[i] *= 1e-39f;
    if (i == 64 * 11 + 13) x[i] = std::numeric_limits<float>::quiet_NaN();
    if (i == 64 * 12 + 3) x[i] = -std::numeric_limits<float>::infinity();
    if (i / 64 == 13) x[i] = kNf4Thresholds[i % 15];
  }
  return x;
}

}  // namespace

TEST(dynamic_maps_are_those_of_bitsandbytes) {
  const SafetensorsFile file = fixture("dynamic_map.safetensors");
  const auto& is_signed = signed_dynamic_map().values;
  const auto& is_unsigned = unsigned_dynamic_map().values;
  check_same_bits("signed", {is_signed.begin(), is_signed.end()}, values_of<float>(file, "signed"));
  check_same_bits("unsigned", {is_unsigned.begin(), is_unsigned.end()},
                  values_of<float>(file, "unsigned"));
}

TEST(dynamic_code_is_the_nearest_and_a_tie_takes_the_lower) {
  const DynamicMap& map = signed_dynamic_map();
  for (int code = 0; code < 256; ++code) {
    CHECK_EQ(int{map.code(map.values[static_cast<size_t>(code)])}, code);
    if (code == 255) break;
    const float threshold = map.thresholds[static_cast<size_t>(code)];
    CHECK_EQ(int{map.code(threshold)}, code);
    CHECK_EQ(int{map.code(std::nextafter(threshold, 2.0f))}, code + 1);
  }
  CHECK_EQ(int{map.code(-5.0f)}, 0);
  CHECK_EQ(int{map.code(5.0f)}, 255);
}

TEST(nf4_codes_and_absmax_are_those_of_bitsandbytes) {
  const SafetensorsFile file = fixture("nf4.safetensors");
  const std::vector<float> x = values_of<float>(file, "x");
  for (const auto& [name, device] : devices()) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const std::string suffix = std::string(".") + torch_name(dtype), what = name + suffix;
      const Quantized q = quantize(device, x, dtype);
      check_same_bits(what + " codes", q.codes, values_of<uint8_t>(file, "codes" + suffix));
      check_same_bits(what + " absmax", q.absmax, values_of<float>(file, "absmax" + suffix));
      const Weight weight = nf4_weight(q, 1, static_cast<int64_t>(x.size()));
      check_same_bits(what + " dequantized", dequantize(device, weight, dtype),
                      values_of<uint8_t>(file, "dequantized" + suffix));
    }
  }
}

TEST(double_quantization_is_that_of_bitsandbytes) {
  const SafetensorsFile file = fixture("nf4.safetensors");
  const std::vector<float> absmax = values_of<float>(file, "absmax");
  const std::vector<float> restored = values_of<float>(file, "absmax.restored");
  for (const auto& [name, device] : devices()) {
    const Nested nested = quantize_absmax(device, absmax);
    check_same_bits(name + " offset", {nested.offset}, values_of<float>(file, "offset"));
    check_same_bits(name + " codes", nested.codes, values_of<uint8_t>(file, "nested_codes"));
    check_same_bits(name + " absmax", nested.absmax, values_of<float>(file, "nested_absmax"));
    // A weight of ones (code 15) shows each block's restored absmax.
    const std::vector<uint8_t> ones(absmax.size() * 32, 0xff);
    Weight weight;
    weight.data = ones.data();
    weight.storage = Storage::kNF4;
    weight.rows = static_cast<int64_t>(absmax.size());
    weight.cols = 64;
    weight.absmax_codes = nested.codes.data();
    weight.nested_absmax = nested.absmax.data();
    weight.nested_code = signed_dynamic_map().values.data();
    weight.nested_offset = nested.offset;
    const std::vector<uint8_t> bytes = dequantize(device, weight, DType::kF32);
    std::vector<float> first(absmax.size());
    for (size_t i = 0; i < first.size(); ++i) std::memcpy(&first[i], bytes.data() + i * 256, 4);
    check_same_bits(name + " restored", first, restored);
  }
}

TEST(nf4_fast_paths_have_the_bits_of_the_reference) {
  for (size_t count : {size_t{1}, size_t{63}, size_t{64}, size_t{64 * 1030 + 21}}) {
    const std::vector<float> x = mixed_values(count);
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const auto reference = devices()[0].device;
      const Quantized expected = quantize(reference, x, dtype);
      const Weight weight = nf4_weight(expected, 1, static_cast<int64_t>(count));
      for (int threads = 1; threads <= 3; ++threads)
        for (const auto& [name, device] : devices(threads)) {
          const Quantized q = quantize(device, x, dtype);
          const std::string what = name + " " + torch_name(dtype) + " " + std::to_string(count);
          check_same_bits(what + " codes", q.codes, expected.codes);
          check_same_bits(what + " absmax", q.absmax, expected.absmax);
          for (DType to : {DType::kF32, DType::kBF16, DType::kF16})
            check_same_bits(what + " dequantized", dequantize(device, weight, to),
                            dequantize(reference, weight, to));
        }
    }
  }
}

TEST(double_quantization_fast_paths_have_the_bits_of_the_reference) {
  std::vector<float> absmax(256 * 70 + 19);
  const uint64_t key = random_key(6, RandomUse::kTest);
  for (size_t i = 0; i < absmax.size(); ++i)
    absmax[i] = std::abs(random_normal(key, i)) * (i % 700 == 0 ? 30.0f : 1.0f);
  const Nested expected = quantize_absmax(devices()[0].device, absmax);
  for (int threads = 1; threads <= 3; ++threads)
    for (const auto& [name, device] : devices(threads)) {
      const Nested nested = quantize_absmax(device, absmax);
      check_same_bits<float>(name + " offset", {nested.offset}, {expected.offset});
      check_same_bits(name + " codes", nested.codes, expected.codes);
      check_same_bits(name + " absmax", nested.absmax, expected.absmax);
    }
}
