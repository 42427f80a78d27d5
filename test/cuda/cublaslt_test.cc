// Looking cuBLASLt up, and what becomes of everything that can be wrong with it.
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "core/error.h"
#include "cuda/plugin.h"
#include "ops/linear.h"
#include "support/operands.h"
#include "support/temporary_folder.h"
#include "support/test.h"

using namespace lowrank;
using namespace lowrank::test;

namespace {

constexpr const char* kLibrary = "LOWRANK_CUDA_MODEL_CUBLASLT";
constexpr const char* kFail = "LOWRANK_CUBLASLT_STUB_FAIL";
constexpr const char* kVersion = "LOWRANK_CUBLASLT_STUB_VERSION";

// A variable of the environment, for as long as it lives.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) {
    ::setenv(name, value.c_str(), 1);
  }
  ~Setting() { ::unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

std::shared_ptr<Device> open_modelled() { return Device::open(cuda::backend()); }

// y = x W^T of bf16, as large as a product for the library must be.
std::vector<double> multiply(const std::shared_ptr<Device>& device, int64_t extent = 128) {
  TestMatrix x(device, extent, extent, DType::kBF16, 1), y(device, extent, extent, DType::kBF16, 2);
  TestWeight weight(device, extent, extent, Storage::kBF16, false, 3, 0.3);
  LinearForward op;
  op.x = x.matrix();
  op.y = y.matrix();
  op.weight = weight.weight();
  ops::linear_forward(*device, op);
  return y.values();
}

// The device's note, after checking that it works without the library.
std::string note_without_library() {
  const auto device = open_modelled();
  CHECK_EQ(std::string(device->info().library), "");
  CHECK(multiply(device).size() == 128 * 128);
  return device->info().note;
}

bool contains(const std::string& text, const std::string& part) {
  if (text.find(part) != std::string::npos) return true;
  std::printf("  got: %s\n", text.c_str());
  return false;
}

}  // namespace

TEST(a_library_that_is_found_is_named_and_its_workspace_is_counted) {
  const uint64_t without = open_modelled()->info().fixed_bytes;
  const Setting library(kLibrary, LOWRANK_CUBLASLT_STUB);
  const auto device = open_modelled();
  CHECK_EQ(std::string(device->info().library), "cuBLASLt 13.1.1");
  CHECK_EQ(std::string(device->info().note), "");
  CHECK_EQ(device->info().fixed_bytes, without + (uint64_t{32} << 20));
}

TEST(a_missing_library_is_one_sentence_that_says_how_to_get_it) {
  const std::string note = note_without_library();
  CHECK(contains(note, "cuBLASLt isn't found"));
  CHECK(contains(note, "pip install nvidia-cublas"));
  CHECK(contains(note, kLibrary));
  const Setting library(kLibrary, "/nowhere/libcublasLt.so.13");
  CHECK(
      contains(note_without_library(), "cuBLASLt isn't used: /nowhere/libcublasLt.so.13: cannot"));
}

TEST(off_turns_it_off) {
  const Setting library(kLibrary, "off");
  CHECK(contains(note_without_library(), "=off turns cuBLASLt off"));
}

TEST(a_file_that_is_no_library_is_a_reason) {
  const TemporaryFolder folder;
  const std::string path = folder / "libcublasLt.so.13";
  std::ofstream(path) << "nothing";
  const Setting library(kLibrary, path);
  CHECK(contains(note_without_library(), "cuBLASLt isn't used: " + path));
}

TEST(a_missing_function_is_a_reason) {
  const Setting library(kLibrary, LOWRANK_CUBLASLT_STUB_PART);
  CHECK(contains(note_without_library(), "has no function cublasLtMatmul"));
}

TEST(another_major_version_is_a_reason) {
  for (const char* version : {"110300", "140000"}) {
    const Setting library(kLibrary, LOWRANK_CUBLASLT_STUB), told(kVersion, version);
    CHECK(contains(note_without_library(), version[1] == '1' ? "is cuBLASLt 11.3.0, 12 or 13"
                                                             : "is cuBLASLt 14.0.0, 12 or 13"));
  }
  const Setting library(kLibrary, LOWRANK_CUBLASLT_STUB), told(kVersion, "120802");
  CHECK_EQ(std::string(open_modelled()->info().library), "cuBLASLt 12.8.2");
}

TEST(a_library_that_does_not_start_is_a_reason) {
  const Setting library(kLibrary, LOWRANK_CUBLASLT_STUB), fail(kFail, "create");
  CHECK(contains(note_without_library(), "can't be started: the library was not initialized"));
}

TEST(too_little_memory_for_its_workspace_is_a_reason) {
  const uint64_t without = open_modelled()->info().fixed_bytes;
  const Setting library(kLibrary, LOWRANK_CUBLASLT_STUB);
  const Setting memory("LOWRANK_CUDA_MODEL_MEMORY", std::to_string(without + (24 << 20)));
  CHECK(contains(note_without_library(), "too little device memory"));
}

TEST(a_shape_that_the_library_cannot_compute_is_our_own_kernels) {
  const auto expected = multiply(open_modelled());
  const Setting library(kLibrary, LOWRANK_CUBLASLT_STUB), fail(kFail, "heuristic");
  CHECK(multiply(open_modelled()) == expected);
}

TEST(a_product_that_fails_is_an_error_with_its_shape) {
  const Setting library(kLibrary, LOWRANK_CUBLASLT_STUB);
  const auto device = open_modelled();
  {
    const Setting failing(kFail, "matmul");
    CHECK_ERROR(multiply(device), ErrorCode::kBackend,
                "cuBLASLt, product of 128 x 128 x 128: the function failed to launch");
    multiply(device, 120);  // too small for it
  }
  CHECK(multiply(device).size() == 128 * 128);  // the device goes on
}
