// Linked into a test, this gives its modelled devices a cuBLASLt, cublaslt_stub.cc, for products of
// all sizes; the test fails where none went through it.
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>

#include "support/test.h"

namespace {

const bool chosen = [] {
  ::setenv("LOWRANK_CUDA_MODEL_CUBLASLT", LOWRANK_CUBLASLT_STUB, 1);
  ::setenv("LOWRANK_CUBLASLT_MIN", "1", 1);
  return true;
}();

}  // namespace

TEST_LAST(products_went_through_cublaslt) {
  void* library = ::dlopen(LOWRANK_CUBLASLT_STUB, RTLD_NOW | RTLD_NOLOAD);
  CHECK(library != nullptr);
  if (!library) return;
  using Count = int64_t (*)();
  const auto count = reinterpret_cast<Count>(::dlsym(library, "lowrank_cublaslt_stub_products"));
  CHECK(count && count() > 0);
  std::printf("  %lld products\n", static_cast<long long>(count ? count() : 0));
  ::dlclose(library);
}
