// A stand-in for libcublasLt over the execution model's streams: what the plug-in uses of it, as
// NVIDIA's documentation describes it, with host loops for kernels. Stricter than the library: what
// isn't expected of the plug-in is CUBLAS_STATUS_INVALID_VALUE. The environment makes it fail:
//   LOWRANK_CUBLASLT_STUB_VERSION=n      the version that it tells
//   LOWRANK_CUBLASLT_STUB_FAIL=create | heuristic | matmul    not supported, or failed
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "core/dtype.h"
#include "cuda/cublaslt_api.h"
#include "model/stream.h"

namespace lowrank::cuda::cublaslt {

struct Context {};
struct MatmulDesc {
  int32_t op_a = kOpN, op_b = kOpN;
};
struct MatrixLayout {
  int32_t type = 0;
  int64_t rows = 0, cols = 0, ld = 0;
  bool operator==(const MatrixLayout&) const = default;
  int64_t at(int64_t row, int64_t col) const { return col * ld + row; }
};
// Defaults as documented; all five must be set.
struct Preference {
  uint64_t workspace_bytes = 0;
  uint32_t reduction_schemes = 7, alignments[4] = {256, 256, 256, 256};
};

namespace {

constexpr Status kNotInitialized = 1, kExecutionFailed = 13;
constexpr size_t kNeededWorkspace = 4096;
std::atomic<int64_t> products = 0;

bool fails(const char* what) {
  const char* setting = std::getenv("LOWRANK_CUBLASLT_STUB_FAIL");
  return setting && std::strcmp(setting, what) == 0;
}

// What an algorithm was chosen for.
struct Choice {
  int32_t op_a, op_b;
  int64_t m, n, k, alignment;
  bool operator==(const Choice&) const = default;
};
static_assert(sizeof(Choice) <= sizeof(Algo));

bool is_transposed(int32_t op) { return op == kOpT; }

// Whether the shapes fit: d [m, n] = op(a) [m, k] op(b) [k, n], c like d.
bool choose(const MatmulDesc& desc, const MatrixLayout& a, const MatrixLayout& b,
            const MatrixLayout& c, const MatrixLayout& d, Choice* choice) {
  const bool ta = is_transposed(desc.op_a), tb = is_transposed(desc.op_b);
  const int64_t k = ta ? a.rows : a.cols;
  *choice = {desc.op_a, desc.op_b, d.rows, d.cols, k, 0};
  return a.type == kReal16BF && b.type == kReal16BF && (ta ? a.cols : a.rows) == d.rows &&
         (tb ? b.cols : b.rows) == k && (tb ? b.rows : b.cols) == d.cols && c.type == d.type &&
         c.rows == d.rows && c.cols == d.cols;
}

float load(const void* data, const MatrixLayout& layout, int64_t row, int64_t col) {
  const int64_t index = layout.at(row, col);
  if (layout.type == kReal32F) return static_cast<const float*>(data)[index];
  return to_float(static_cast<const BF16*>(data)[index]);
}

struct Work {
  MatmulDesc desc;
  MatrixLayout a_layout, b_layout, c_layout, d_layout;
  const void *a, *b, *c;
  void* d;
  float alpha, beta;
  int64_t k;
  void* workspace;
};

void run(void* argument) {
  const Work& w = *static_cast<const Work*>(argument);
  // Partial sums that no one may rely on.
  for (size_t i = 0; i < kNeededWorkspace / sizeof(float); ++i)
    static_cast<float*>(w.workspace)[i] = std::numeric_limits<float>::quiet_NaN();
  const bool ta = is_transposed(w.desc.op_a), tb = is_transposed(w.desc.op_b);
  for (int64_t col = 0; col < w.d_layout.cols; ++col) {
    for (int64_t row = 0; row < w.d_layout.rows; ++row) {
      double sum = 0;
      for (int64_t k = 0; k < w.k; ++k)
        sum += double{ta ? load(w.a, w.a_layout, k, row) : load(w.a, w.a_layout, row, k)} *
               double{tb ? load(w.b, w.b_layout, col, k) : load(w.b, w.b_layout, k, col)};
      sum *= double{w.alpha};
      // With a beta of 0 c isn't read, so it may hold anything.
      if (w.beta != 0) sum += double{w.beta} * double{load(w.c, w.c_layout, row, col)};
      const int64_t index = w.d_layout.at(row, col);
      const auto value = static_cast<float>(sum);
      if (w.d_layout.type == kReal32F)
        static_cast<float*>(w.d)[index] = value;
      else
        static_cast<BF16*>(w.d)[index] = to_bf16(value);
    }
  }
}

bool aligned(const void* pointer, int64_t bytes) {
  return pointer && reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

template <typename T, typename... Arguments>
Status make(T** out, Arguments... arguments) {
  *out = new (std::nothrow) T{arguments...};
  return *out ? kSuccess : kNotInitialized;
}
template <typename T>
Status destroy(T* made) {
  delete made;
  return kSuccess;
}

template <typename T>
Status set(T& field, const void* value, size_t bytes) {
  if (!value || bytes != sizeof field) return kInvalidValue;
  std::memcpy(&field, value, bytes);
  return kSuccess;
}

}  // namespace
}  // namespace lowrank::cuda::cublaslt

#define EXPORT extern "C" __attribute__((visibility("default")))
using namespace lowrank::cuda::cublaslt;

EXPORT int64_t lowrank_cublaslt_stub_products() { return products; }

EXPORT size_t cublasLtGetVersion() {
  const char* version = std::getenv("LOWRANK_CUBLASLT_STUB_VERSION");
  return version ? std::strtoull(version, nullptr, 10) : 130101;
}
EXPORT const char* cublasLtGetStatusString(Status status) {
  switch (status) {
    case kSuccess:
      return "success";
    case kNotInitialized:
      return "the library was not initialized";
    case kInvalidValue:
      return "an unsupported value or parameter was passed to the function";
    case kNotSupported:
      return "the functionality requested is not supported";
    default:
      return "the function failed to launch on the GPU";
  }
}
EXPORT Status cublasLtCreate(Context** context) {
  return fails("create") ? kNotInitialized : make(context);
}
EXPORT Status cublasLtDestroy(Context* context) { return destroy(context); }

EXPORT Status cublasLtMatmulDescCreate(MatmulDesc** desc, int32_t compute_type,
                                       int32_t scale_type) {
  if (compute_type != kCompute32F || scale_type != kReal32F) return kInvalidValue;
  return make(desc);
}
EXPORT Status cublasLtMatmulDescSetAttribute(MatmulDesc* desc, int32_t attribute, const void* value,
                                             size_t bytes) {
  if (attribute != kMatmulTransA && attribute != kMatmulTransB) return kInvalidValue;
  int32_t op = -1;
  if (set(op, value, bytes) != kSuccess || (op != kOpN && op != kOpT)) return kInvalidValue;
  (attribute == kMatmulTransA ? desc->op_a : desc->op_b) = op;
  return kSuccess;
}
EXPORT Status cublasLtMatmulDescDestroy(MatmulDesc* desc) { return destroy(desc); }

EXPORT Status cublasLtMatrixLayoutCreate(MatrixLayout** layout, int32_t type, uint64_t rows,
                                         uint64_t cols, int64_t ld) {
  if ((type != kReal32F && type != kReal16BF) || rows == 0 || cols == 0 ||
      ld < static_cast<int64_t>(rows))
    return kInvalidValue;
  return make(layout, type, static_cast<int64_t>(rows), static_cast<int64_t>(cols), ld);
}
EXPORT Status cublasLtMatrixLayoutDestroy(MatrixLayout* layout) { return destroy(layout); }

EXPORT Status cublasLtMatmulPreferenceCreate(Preference** preference) { return make(preference); }
EXPORT Status cublasLtMatmulPreferenceSetAttribute(Preference* preference, int32_t attribute,
                                                   const void* value, size_t bytes) {
  if (attribute == kMaxWorkspaceBytes) return set(preference->workspace_bytes, value, bytes);
  if (attribute == kReductionSchemeMask) return set(preference->reduction_schemes, value, bytes);
  if (attribute < kMinAlignmentA || attribute > kMinAlignmentD) return kInvalidValue;
  return set(preference->alignments[attribute - kMinAlignmentA], value, bytes);
}
EXPORT Status cublasLtMatmulPreferenceDestroy(Preference* preference) {
  return destroy(preference);
}

EXPORT Status cublasLtMatmulAlgoGetHeuristic(Context* context, MatmulDesc* desc, MatrixLayout* a,
                                             MatrixLayout* b, MatrixLayout* c, MatrixLayout* d,
                                             Preference* preference, int32_t requested,
                                             HeuristicResult* results, int32_t* returned) {
  *returned = 0;
  Choice choice{};
  if (!context || requested < 1 || !choose(*desc, *a, *b, *c, *d, &choice)) return kInvalidValue;
  // Sums with atomics, or in the output's type, aren't what the plug-in may ask for.
  if (preference->reduction_schemes != kReduceInComputeType) return kInvalidValue;
  choice.alignment = preference->alignments[0];
  for (const uint32_t alignment : preference->alignments)
    if (alignment != choice.alignment) return kInvalidValue;
  // Loads of 16 bytes, as matrix instructions of all kinds want them.
  const int64_t bytes = d->type == kReal32F ? 4 : 2;
  if (a->ld * 2 % 16 != 0 || b->ld * 2 % 16 != 0 || c->ld * bytes % 16 != 0 ||
      d->ld * bytes % 16 != 0 || a->rows * 2 % 16 != 0 || b->rows * 2 % 16 != 0 ||
      d->rows * bytes % 16 != 0)
    return kInvalidValue;
  if (fails("heuristic") || preference->workspace_bytes < kNeededWorkspace) return kNotSupported;
  HeuristicResult& result = results[0];
  result = {};
  std::memcpy(result.algo.data, &choice, sizeof choice);
  result.workspace_bytes = kNeededWorkspace;
  *returned = 1;
  return kSuccess;
}

EXPORT Status cublasLtMatmul(Context* context, MatmulDesc* desc, const void* alpha, const void* a,
                             MatrixLayout* a_layout, const void* b, MatrixLayout* b_layout,
                             const void* beta, const void* c, MatrixLayout* c_layout, void* d,
                             MatrixLayout* d_layout, const Algo* algo, void* workspace,
                             size_t workspace_bytes, void* stream) {
  Choice choice{}, chosen{};
  if (!context || !algo || !choose(*desc, *a_layout, *b_layout, *c_layout, *d_layout, &choice))
    return kInvalidValue;
  std::memcpy(&chosen, algo->data, sizeof chosen);
  choice.alignment = chosen.alignment;
  if (!(choice == chosen)) return kInvalidValue;
  for (const void* pointer : {a, b, c, static_cast<const void*>(d)})
    if (!aligned(pointer, chosen.alignment)) return kInvalidValue;
  if (!aligned(workspace, 16) || workspace_bytes < kNeededWorkspace) return kInvalidValue;
  if (c == d && !(*c_layout == *d_layout)) return kInvalidValue;
  if (fails("matmul")) return kExecutionFailed;
  Work work{*desc, *a_layout, *b_layout, *c_layout, *d_layout, a,        b,
            c,     d,         0,         0,         choice.k,  workspace};
  std::memcpy(&work.alpha, alpha, sizeof work.alpha);
  std::memcpy(&work.beta, beta, sizeof work.beta);
  const auto* model_stream = static_cast<const lowrank::cuda::ModelStream*>(stream);
  model_stream->run(model_stream, run, &work);
  ++products;
  return kSuccess;
}
