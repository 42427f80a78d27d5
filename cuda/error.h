// Failures of the CUDA runtime as exceptions, which the rows of the backend table catch.
#pragma once

#include <stdexcept>

namespace lowrank::cuda {

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Throws CudaError("<what>: <message of the runtime>") unless `status` is cudaSuccess.
void check_cuda(int status, const char* what);

}  // namespace lowrank::cuda
