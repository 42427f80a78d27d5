#include "cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "cuda/error.h"
#include "cuda/runtime.h"

namespace lowrank::cuda {
namespace {

using namespace cublaslt;

constexpr size_t kOldestMajor = 12, kNewestMajor = 13;
// Lengths of packed rows differ from step to step, and each is a shape of its own.
constexpr size_t kMostPlans = 4096;

// Why a library can't be used.
struct Unusable : CudaError {
  using CudaError::CudaError;
};

std::string version_text(size_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

std::string status_text(const Functions& functions, Status status) {
  const char* text = functions.get_status_string(status);
  return std::string(text ? text : "unknown") + " (status " + std::to_string(status) + ")";
}

struct Library {
  explicit Library(const char* opened)
      : name(opened), handle(::dlopen(opened, RTLD_NOW | RTLD_LOCAL), ::dlclose) {
    const char* text = handle ? nullptr : ::dlerror();
    if (text) error = text;
  }
  // What the loader says of a file that isn't there, and not of one that it can't load.
  bool absent() const { return error.find(name + ": cannot open shared object file") == 0; }

  std::string name;
  std::unique_ptr<void, int (*)(void*)> handle;
  std::string error;
};

// Throws Unusable where something is missing or the version isn't one that these prototypes are of.
Functions functions_of(const Library& library) {
  Functions functions{};
  for_each_function(functions, [&](const char* symbol, auto& function) {
    void* found = ::dlsym(library.handle.get(), symbol);
    if (!found) throw Unusable(library.name + " has no function " + symbol);
    std::memcpy(&function, &found, sizeof found);
  });
  const size_t version = functions.get_version();
  if (version / 10000 < kOldestMajor || version / 10000 > kNewestMajor)
    throw Unusable(library.name + " is cuBLASLt " + version_text(version) + ", " +
                   std::to_string(kOldestMajor) + " or " + std::to_string(kNewestMajor) +
                   " is needed");
  return functions;
}

template <typename T>
using Owned = std::unique_ptr<T, Status (*)(T*)>;

}  // namespace

// How one shape is computed; not usable where the library has no way to.
struct Cublaslt::Plan {
  Owned<MatmulDesc> product{nullptr, nullptr};
  Owned<MatrixLayout> a{nullptr, nullptr}, b{nullptr, nullptr}, c{nullptr, nullptr},
      from{nullptr, nullptr};
  Algo algo{};
  bool usable = false;
};

std::unique_ptr<Cublaslt> Cublaslt::open(std::string* note) {
  const runtime::LibrarySearch search = runtime::cublaslt_search();
  const std::string variable = search.variable;
  const char* named = std::getenv(search.variable);
  if (named && std::strcmp(named, "off") == 0) {
    *note = variable + "=off turns cuBLASLt off";
    return nullptr;
  }
  Library library(named ? named : search.names[0]);
  if (!named && library.absent()) library = Library(search.names[1]);
  if (!named && library.absent()) {
    *note =
        "cuBLASLt isn't found, so every product runs on lowrank's own kernels; to get it: pip "
        "install nvidia-cublas and set " +
        variable + "=<site-packages>/nvidia/cu13/lib/" + search.names[0] +
        ", or install the CUDA toolkit and put its lib64 on the loader's path";
    return nullptr;
  }
  try {
    if (!library.handle) throw Unusable(library.error);
    std::unique_ptr<Cublaslt> blas(new Cublaslt());
    blas->functions_ = functions_of(library);
    const Status status = blas->functions_.create(&blas->context_);
    if (status != kSuccess)
      throw Unusable(library.name + " can't be started: " + status_text(blas->functions_, status));
    // What it queued may still run when the device is closed: it stays loaded.
    static_cast<void>(library.handle.release());
    return blas;
  } catch (const Unusable& error) {
    *note = std::string("cuBLASLt isn't used: ") + error.what();
    return nullptr;
  }
}

Cublaslt::~Cublaslt() {
  plans_.clear();
  if (context_) functions_.destroy(context_);
}

std::string Cublaslt::version() const { return version_text(functions_.get_version()); }

void Cublaslt::check(Status status, const char* what) const {
  if (status != kSuccess)
    throw CudaError(std::string("cuBLASLt, ") + what + ": " + status_text(functions_, status));
}

// The library's matrices are column-major, so ours are their transposes there, and it is asked for
// c^T = b a^T: its first operand is our b.
const Cublaslt::Plan& Cublaslt::plan_for(const LibraryProduct::Shape& s) {
  const auto known = plans_.find(s);
  if (known != plans_.end()) return *known->second;
  if (plans_.size() >= kMostPlans) plans_.clear();
  const Functions& f = functions_;
  auto made_plan = std::make_unique<Plan>();
  Plan& plan = *made_plan;
  MatmulDesc* product = nullptr;
  check(f.matmul_desc_create(&product, kCompute32F, kReal32F), "description of a product");
  plan.product = {product, f.matmul_desc_destroy};
  const auto set_op = [&](int32_t attribute, bool transposed) {
    const int32_t op = transposed ? kOpT : kOpN;
    check(f.matmul_desc_set_attribute(product, attribute, &op, sizeof op), "transposition");
  };
  set_op(kMatmulTransA, !s.b_k_is_row);
  set_op(kMatmulTransB, s.a_k_is_row);
  // A matrix of `rows` x `cols` elements in our memory.
  const auto layout = [&](bool bf16, int64_t rows, int64_t cols, int64_t stride) {
    MatrixLayout* made = nullptr;
    check(f.matrix_layout_create(&made, bf16 ? kReal16BF : kReal32F, static_cast<uint64_t>(cols),
                                 static_cast<uint64_t>(rows), stride),
          "description of a matrix");
    return Owned<MatrixLayout>{made, f.matrix_layout_destroy};
  };
  plan.a = s.a_k_is_row ? layout(true, s.k, s.m, s.a_stride) : layout(true, s.m, s.k, s.a_stride);
  plan.b = s.b_k_is_row ? layout(true, s.k, s.n, s.b_stride) : layout(true, s.n, s.k, s.b_stride);
  plan.c = layout(s.c_bf16, s.m, s.n, s.c_stride);
  plan.from = layout(s.c_bf16, s.m, s.n, s.from_stride);

  Preference* preference = nullptr;
  check(f.preference_create(&preference), "preferences");
  const Owned<Preference> owner{preference, f.preference_destroy};
  const auto prefer = [&](int32_t attribute, auto value) {
    check(f.preference_set_attribute(preference, attribute, &value, sizeof value), "preferences");
  };
  prefer(kMaxWorkspaceBytes, uint64_t{kWorkspaceBytes});
  // Partial sums must not depend on which block comes first.
  prefer(kReductionSchemeMask, kReduceInComputeType);
  for (const int32_t operand : {kMinAlignmentA, kMinAlignmentB, kMinAlignmentC, kMinAlignmentD})
    prefer(operand, static_cast<uint32_t>(kAlignmentBytes));

  HeuristicResult result{};
  int32_t returned = 0;
  const Status status =
      f.matmul_algo_get_heuristic(context_, product, plan.b.get(), plan.a.get(), plan.from.get(),
                                  plan.c.get(), preference, 1, &result, &returned);
  if (status != kNotSupported) check(status, "choice of an algorithm");
  plan.usable = status == kSuccess && returned == 1 && result.state == kSuccess &&
                result.workspace_bytes <= kWorkspaceBytes;
  plan.algo = result.algo;
  return *plans_.emplace(s, std::move(made_plan)).first->second;
}

bool Cublaslt::multiply(Stream stream, const LibraryProduct& p, void* workspace) {
  LibraryProduct::Shape shape = p.shape;
  const bool in_place = !p.from || p.from == p.c;
  if (in_place) shape.from_stride = shape.c_stride;
  const Plan& plan = plan_for(shape);
  if (!plan.usable) return false;
  const float beta = p.from ? 1 : 0;
  const Status status = functions_.matmul(context_, plan.product.get(), &p.scale, p.b, plan.b.get(),
                                          p.a, plan.a.get(), &beta, in_place ? p.c : p.from,
                                          (in_place ? plan.c : plan.from).get(), p.c, plan.c.get(),
                                          &plan.algo, workspace, kWorkspaceBytes, stream);
  if (status == kSuccess) return true;
  runtime::synchronize(stream);  // throws when it is the GPU that has failed
  const std::string what = "product of " + std::to_string(shape.m) + " x " +
                           std::to_string(shape.n) + " x " + std::to_string(shape.k);
  check(status, what.c_str());
  return false;
}

}  // namespace lowrank::cuda
