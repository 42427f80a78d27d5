// Failures of the CUDA runtime as exceptions, which the rows of the backend table catch.
#pragma once

#include <stdexcept>

namespace lowrank::cuda {

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// After a fault in a kernel: nothing on this GPU works any more in this process.
struct DeviceLost : CudaError {
  using CudaError::CudaError;
};

// Throws CudaError("<what>: <message of the runtime>") unless `status` is cudaSuccess; DeviceLost
// when the GPU reports the same from then on.
void check_cuda(int status, const char* what);

}  // namespace lowrank::cuda
