// Building products and launching them.
#pragma once

#include "cuda/kernels/gemm.cuh"
#include "cuda/runtime.h"

namespace lowrank::cuda {

// An operand of `rows` x `cols` elements in memory.
Operand operand(const void* data, Storage storage, int64_t rows, int64_t cols, int64_t stride);
Operand operand(const Matrix& matrix);
Operand operand(const Weight& weight);
// The same with memory's rows as the product's k.
Operand transposed(Operand operand);

Dropout dropout_of(const LoraSegment& segment, int64_t cols);

// Where c goes.
void set_output(Gemm& gemm, void* data, DType dtype, int64_t stride);

// With matrix instructions where the activations are bf16, or by cuBLASLt.
void run_gemm(CudaDevice& device, const Gemm& gemm, DType activation);

// False, and nothing is queued, where the product isn't one for cuBLASLt or there is none.
bool run_cublaslt(CudaDevice& device, const Gemm& gemm);

// total [cols] += column sums of x.
void add_column_sums(CudaDevice& device, const Matrix& x, float* total);

}  // namespace lowrank::cuda
