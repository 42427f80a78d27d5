// int8 by rows: against codes worked out by hand and from the contract's sentence, and the same
// bytes from every instruction set.
#include <cmath>
#include <limits>

#include "support/isa_check.h"
#include "support/op_cases.h"
#include "support/test.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

struct Quantized {
  std::vector<int8_t> codes;
  std::vector<double> scales, restored;
};

// Quantizes what `x` holds and dequantizes it to f32.
Quantized quantize(const std::shared_ptr<Device>& device, const TestMatrix& x) {
  const Matrix& m = x.matrix();
  const auto count = static_cast<size_t>(m.rows * m.cols);
  Quantized result;
  result.codes.resize(count);
  Buffer codes(device, count);
  TestVector scales(device, m.rows, 1), restored(device, m.rows * m.cols, 2);
  QuantizeInt8 op{m.data, m.dtype, m.rows, m.cols, codes.as<int8_t>(), scales.data()};
  device->check(device->backend().quantize_int8(device->handle(), &op), "quantize_int8");
  codes.download(result.codes.data(), count);
  Weight weight;
  weight.data = codes.data();
  weight.storage = Storage::kInt8;
  weight.rows = m.rows;
  weight.cols = m.cols;
  weight.row_scale = scales.data();
  Dequantize back{weight, restored.data(), DType::kF32};
  device->check(device->backend().dequantize(device->handle(), &back), "dequantize");
  result.scales = scales.values();
  result.restored = restored.values();
  return result;
}

std::vector<std::string> every_isa() {
  std::vector<std::string> isas = fast_isas();
  isas.push_back("reference");
  return isas;
}

}  // namespace

TEST(int8_codes_by_hand) {
  for (const std::string& isa : every_isa()) {
    const auto device = open_cpu(isa, 1);
    TestMatrix x(device, 4, 4, DType::kF32, 1, 0, 0);
    // absmax 127: codes are the values, halves go to the even neighbour.
    x.set({127, -2.5, 3.5, 0.25, -1, 0.5, 1, -0.25, 0, 0, -0.0, 0, 254, 1, 3, -5});
    const Quantized q = quantize(device, x);
    const std::vector<int> codes{127, -2, 4, 0, -127, 64, 127, -32, 0, 0, 0, 0, 127, 0, 2, -2};
    for (size_t i = 0; i < codes.size(); ++i) CHECK_EQ(int{q.codes[i]}, codes[i]);
    CHECK_EQ(q.scales[0], 1.0);
    CHECK_EQ(q.scales[1], static_cast<double>(1.0f / 127.0f));
    CHECK_EQ(q.scales[2], 0.0);
    CHECK_EQ(q.scales[3], 2.0);
    CHECK_EQ(q.restored[13], 0.0);
    CHECK_EQ(q.restored[14], 4.0);
  }
}

TEST(int8_rows_of_what_is_not_finite) {
  for (const std::string& isa : every_isa()) {
    const auto device = open_cpu(isa, 1);
    TestMatrix x(device, 3, 40, DType::kF32, 1, 1, 0);
    auto values = x.values();
    values[37] = NAN;
    values[41] = -INFINITY;
    for (size_t i = 80; i < 120; ++i) values[i] = 1e-42;  // below kMinInt8Absmax
    x.set(values);
    const Quantized q = quantize(device, x);
    for (size_t i = 0; i < 80; ++i) {
      CHECK_EQ(int{q.codes[i]}, 0);
      CHECK(std::isnan(q.restored[i]));
    }
    for (size_t i = 80; i < 120; ++i) CHECK(std::abs(int{q.codes[i]}) <= 1);
  }
}

TEST(int8_kernels) {
  for (const RowCase& c : kRowCases) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const std::string name = "quantize_int8 [" + std::to_string(c.rows) + ", " +
                               std::to_string(c.cols) + "] " + dtype_name(dtype);
      check_every_isa(name, [&](std::shared_ptr<Device> device) {
        TestMatrix x(device, c.rows, c.cols, dtype, 1, 1, 0);
        const Quantized q = quantize(device, x);
        const auto values = x.values();
        // Half a step, the roundings of the factor, the scale and the product, and 1 code more
        // never: the code of the largest is 127.
        for (size_t i = 0; i < values.size(); ++i) {
          const double scale = q.scales[i / static_cast<size_t>(c.cols)];
          CHECK_NEAR(q.restored[i], values[i], scale * (0.5 + 127 * 0x1p-21));
        }
        return Outputs{{"codes", {q.codes.begin(), q.codes.end()}, {}},
                       {"scales", q.scales, {}},
                       {"restored", q.restored, {}}};
      });
    }
  }
}
