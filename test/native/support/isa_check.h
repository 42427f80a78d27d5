// Runs an op on every instruction set that this machine has, against the scalar reference, and with
// 1, 2 and mostly 3 threads, whose results must have the same bits. The devices come from
// cpu_devices.cc, or from test/cuda: there the one "instruction set" are the CUDA kernels under an
// execution model, and the number of threads is a seed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/device.h"
#include "support/operands.h"

namespace lowrank::test {

// One output of an op, or "padding" violated.
struct Output {
  std::string name;
  std::vector<double> values;  // every output type is exact in double
  // How far each value may lie from the reference's; read from the reference's run only. Empty
  // means the same bits.
  std::vector<double> bounds;
};
using Outputs = std::vector<Output>;

// Opens a CPU device; shared by the cases of one executable.
std::shared_ptr<Device> open_cpu(const std::string& isa, int threads);

// Ops run with 1 to this many threads.
int most_threads();

// Whether bounds are read from this device's run.
bool gives_bounds(const Device& device);

// The fast instruction sets this machine can run; only LOWRANK_ISA where the environment has it.
std::vector<std::string> fast_isas();

// `run` builds the operands on the device, calls the op and returns the outputs.
void check_every_isa(const std::string& name,
                     const std::function<Outputs(std::shared_ptr<Device>)>& run);

// Reports the first value that lies outside its bound, or any NaN.
void compare(const std::string& name, const Output& actual, const Output& expected);

}  // namespace lowrank::test
