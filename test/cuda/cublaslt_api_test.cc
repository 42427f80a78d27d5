// cuda/cublaslt_api.h against NVIDIA's own header, at compile time. Built where CMake finds that
// header (CUBLAS_INCLUDE_DIR).
#include <cublasLt.h>

#include <type_traits>

#include "cuda/cublaslt_api.h"
#include "support/test.h"

namespace {

namespace ours = lowrank::cuda::cublaslt;

static_assert(ours::kSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(ours::kInvalidValue == CUBLAS_STATUS_INVALID_VALUE);
static_assert(ours::kNotSupported == CUBLAS_STATUS_NOT_SUPPORTED);
static_assert(ours::kReal32F == CUDA_R_32F && ours::kReal16BF == CUDA_R_16BF);
static_assert(ours::kCompute32F == CUBLAS_COMPUTE_32F);
static_assert(ours::kOpN == CUBLAS_OP_N && ours::kOpT == CUBLAS_OP_T);
static_assert(ours::kMatmulTransA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(ours::kMatmulTransB == CUBLASLT_MATMUL_DESC_TRANSB);
static_assert(ours::kMaxWorkspaceBytes == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(ours::kReductionSchemeMask == CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
static_assert(ours::kMinAlignmentA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(ours::kMinAlignmentB == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(ours::kMinAlignmentC == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(ours::kMinAlignmentD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
static_assert(ours::kReduceInComputeType == CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);

using Result = cublasLtMatmulHeuristicResult_t;
static_assert(sizeof(ours::Algo) == sizeof(cublasLtMatmulAlgo_t));
static_assert(alignof(ours::Algo) == alignof(cublasLtMatmulAlgo_t));
static_assert(sizeof(ours::HeuristicResult) == sizeof(Result));
static_assert(offsetof(ours::HeuristicResult, algo) == offsetof(Result, algo));
static_assert(offsetof(ours::HeuristicResult, workspace_bytes) == offsetof(Result, workspaceSize));
static_assert(offsetof(ours::HeuristicResult, state) == offsetof(Result, state));
static_assert(offsetof(ours::HeuristicResult, waves) == offsetof(Result, wavesCount));
static_assert(offsetof(ours::HeuristicResult, reserved) == offsetof(Result, reserved));

// What a function call can't tell apart: pointers of one depth, whole numbers of one size and sign.
template <typename T>
constexpr int depth() {
  if constexpr (std::is_pointer_v<T>)
    return 1 + depth<std::remove_pointer_t<T>>();
  else
    return 0;
}
template <typename Ours, typename Theirs>
constexpr bool passes_as() {
  if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) {
    // A handle is a void* there, an opaque type here; constness is the callee's promise.
    return depth<Ours>() == depth<Theirs>() && std::is_const_v<std::remove_pointer_t<Ours>> ==
                                                   std::is_const_v<std::remove_pointer_t<Theirs>>;
  } else if constexpr (std::is_enum_v<Theirs>) {
    return std::is_integral_v<Ours> && sizeof(Ours) == sizeof(Theirs);
  } else {
    return std::is_same_v<Ours, Theirs>;
  }
}

template <typename Ours, typename Theirs>
struct Same : std::false_type {};
template <typename R, typename... Args, typename S, typename... Brgs>
requires(sizeof...(Args) == sizeof...(Brgs)) struct Same<R (*)(Args...), S(Brgs...)>
    : std::bool_constant<passes_as<R, S>() && (passes_as<Args, Brgs>() && ...)> {
};

using F = ours::Functions;
static_assert(Same<decltype(F::get_version), decltype(cublasLtGetVersion)>::value);
static_assert(Same<decltype(F::get_status_string), decltype(cublasLtGetStatusString)>::value);
static_assert(Same<decltype(F::create), decltype(cublasLtCreate)>::value);
static_assert(Same<decltype(F::destroy), decltype(cublasLtDestroy)>::value);
static_assert(Same<decltype(F::matmul_desc_create), decltype(cublasLtMatmulDescCreate)>::value);
static_assert(
    Same<decltype(F::matmul_desc_set_attribute), decltype(cublasLtMatmulDescSetAttribute)>::value);
static_assert(Same<decltype(F::matmul_desc_destroy), decltype(cublasLtMatmulDescDestroy)>::value);
static_assert(Same<decltype(F::matrix_layout_create), decltype(cublasLtMatrixLayoutCreate)>::value);
static_assert(
    Same<decltype(F::matrix_layout_destroy), decltype(cublasLtMatrixLayoutDestroy)>::value);
static_assert(
    Same<decltype(F::preference_create), decltype(cublasLtMatmulPreferenceCreate)>::value);
static_assert(Same<decltype(F::preference_set_attribute),
                   decltype(cublasLtMatmulPreferenceSetAttribute)>::value);
static_assert(
    Same<decltype(F::preference_destroy), decltype(cublasLtMatmulPreferenceDestroy)>::value);
static_assert(
    Same<decltype(F::matmul_algo_get_heuristic), decltype(cublasLtMatmulAlgoGetHeuristic)>::value);
static_assert(Same<decltype(F::matmul), decltype(cublasLtMatmul)>::value);

}  // namespace

TEST(the_header_is_one_of_a_supported_version) {
  CHECK(CUBLAS_VER_MAJOR == 12 || CUBLAS_VER_MAJOR == 13);
}
