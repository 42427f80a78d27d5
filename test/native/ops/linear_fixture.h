// One case of the linear op on a device: its operands, and the bounds of its results.
#pragma once

#include <memory>
#include <vector>

#include "cpu/reference/linear.h"
#include "support/isa_check.h"
#include "support/op_cases.h"
#include "support/tolerance.h"

namespace lowrank::test {

struct LinearFixture {
  LinearFixture(std::shared_ptr<Device> opened, const LinearCase& linear_case, DType activation,
                const StorageCase& storage);

  // Run the op and return its outputs with bounds.
  Outputs forward();
  Outputs backward();

  // The magnitudes of a forward pass, all operands made positive: without and with the adapters.
  struct Magnitudes {
    std::vector<double> base, total, xa;
  };
  Magnitudes forward_magnitudes() const;

  std::shared_ptr<Device> device;
  LinearCase c;
  DType dtype;
  Storage storage;
  int64_t xa_cols;
  TestMatrix x, y, residual, xa, d_y, d_x;
  TestWeight weight;
  TestVector bias, d_weight, d_bias;
  std::vector<TestVector> a, b, d_a, d_b;
  std::vector<LoraSegment> segments;

 private:
  std::vector<reference::Segment<double>> host_segments(
      std::vector<std::vector<double>>& storage_of_a,
      std::vector<std::vector<double>>& storage_of_b) const;
  int64_t weight_roundings() const { return storage == Storage::kBF16 ? 0 : 1; }
};

}  // namespace lowrank::test
