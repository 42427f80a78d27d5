// What the plug-in uses of NVIDIA's cublasLt.h, so that building it needs no cuBLAS: types, values
// and prototypes as the documentation of cuBLAS 12 and 13 gives them.
// test/cuda/cublaslt_api_test.cc compares all of it with NVIDIA's header where that is installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lowrank::cuda::cublaslt {

// Opaque; made and destroyed by the library.
struct Context;
struct MatmulDesc;
struct MatrixLayout;
struct Preference;

using Status = int32_t;
inline constexpr Status kSuccess = 0, kInvalidValue = 7, kNotSupported = 15;

inline constexpr int32_t kReal32F = 0, kReal16BF = 14;  // cudaDataType
inline constexpr int32_t kCompute32F = 68;              // cublasComputeType_t
inline constexpr int32_t kOpN = 0, kOpT = 1;            // cublasOperation_t

// cublasLtMatmulDescAttributes_t; both are int32_t.
inline constexpr int32_t kMatmulTransA = 3, kMatmulTransB = 4;

// cublasLtMatmulPreferenceAttributes_t: a uint64_t, and uint32_t for all others.
inline constexpr int32_t kMaxWorkspaceBytes = 1, kReductionSchemeMask = 3;
inline constexpr int32_t kMinAlignmentA = 5, kMinAlignmentB = 6, kMinAlignmentC = 7,
                         kMinAlignmentD = 8;

// cublasLtReductionScheme_t: partial sums in the workspace, added in a launch of their own. Not
// splitting is always allowed.
inline constexpr uint32_t kReduceInComputeType = 2;

struct Algo {
  uint64_t data[8];
};

struct HeuristicResult {
  Algo algo;
  size_t workspace_bytes;
  Status state;
  float waves;
  int32_t reserved[4];
};

// Strings are the library's own; `stream` is a cudaStream_t.
struct Functions {
  size_t (*get_version)();
  const char* (*get_status_string)(Status);
  Status (*create)(Context**);
  Status (*destroy)(Context*);
  Status (*matmul_desc_create)(MatmulDesc**, int32_t compute_type, int32_t scale_type);
  Status (*matmul_desc_set_attribute)(MatmulDesc*, int32_t attribute, const void* value,
                                      size_t bytes);
  Status (*matmul_desc_destroy)(MatmulDesc*);
  Status (*matrix_layout_create)(MatrixLayout**, int32_t type, uint64_t rows, uint64_t cols,
                                 int64_t leading_dimension);
  Status (*matrix_layout_destroy)(MatrixLayout*);
  Status (*preference_create)(Preference**);
  Status (*preference_set_attribute)(Preference*, int32_t attribute, const void* value,
                                     size_t bytes);
  Status (*preference_destroy)(Preference*);
  Status (*matmul_algo_get_heuristic)(Context*, MatmulDesc*, MatrixLayout* a, MatrixLayout* b,
                                      MatrixLayout* c, MatrixLayout* d, Preference*,
                                      int32_t requested, HeuristicResult*, int32_t* returned);
  Status (*matmul)(Context*, MatmulDesc*, const void* alpha, const void* a, MatrixLayout*,
                   const void* b, MatrixLayout*, const void* beta, const void* c, MatrixLayout*,
                   void* d, MatrixLayout*, const Algo*, void* workspace, size_t workspace_bytes,
                   void* stream);
};

// Calls visit(<name in the library>, <member>) for each of them.
template <typename F, typename Visit>
void for_each_function(F& f, const Visit& visit) {
  visit("cublasLtGetVersion", f.get_version);
  visit("cublasLtGetStatusString", f.get_status_string);
  visit("cublasLtCreate", f.create);
  visit("cublasLtDestroy", f.destroy);
  visit("cublasLtMatmulDescCreate", f.matmul_desc_create);
  visit("cublasLtMatmulDescSetAttribute", f.matmul_desc_set_attribute);
  visit("cublasLtMatmulDescDestroy", f.matmul_desc_destroy);
  visit("cublasLtMatrixLayoutCreate", f.matrix_layout_create);
  visit("cublasLtMatrixLayoutDestroy", f.matrix_layout_destroy);
  visit("cublasLtMatmulPreferenceCreate", f.preference_create);
  visit("cublasLtMatmulPreferenceSetAttribute", f.preference_set_attribute);
  visit("cublasLtMatmulPreferenceDestroy", f.preference_destroy);
  visit("cublasLtMatmulAlgoGetHeuristic", f.matmul_algo_get_heuristic);
  visit("cublasLtMatmul", f.matmul);
}

}  // namespace lowrank::cuda::cublaslt
