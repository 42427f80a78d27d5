// What goes wrong on a device: too little memory, a kernel that faults. Each is one readable error,
// and the process goes on.
#include <cstdlib>

#include "core/error.h"
#include "support/test.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using namespace test;

// A variable of the environment that the modelled device reads, for as long as it lives.
class Setting {
 public:
  Setting(const char* name, uint64_t value) : name_(name) {
    ::setenv(name, std::to_string(value).c_str(), 1);
  }
  ~Setting() { ::unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
};

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(a_plan_that_does_not_fit_is_refused_before_anything_is_allocated) {
  const auto device = modelled_device();
  const auto model = tiny_model(device);
  const auto adapter = tiny_adapter(*model);
  const uint64_t taken = device->info().total_bytes - device->info().free_bytes;
  {
    const Setting small("LOWRANK_CUDA_MODEL_MEMORY", taken + 100'000);
    CHECK_ERROR(Session(model, adapter, session_options()), ErrorCode::kOutOfMemory,
                "training needs");
    CHECK_ERROR(Session(model, adapter, session_options()), ErrorCode::kOutOfMemory, "are free");
    // The same where the user's own budget is more than there is.
    SessionOptions hopeful = session_options();
    hopeful.memory_budget = uint64_t{1} << 30;
    CHECK_ERROR(Session(model, adapter, hopeful), ErrorCode::kOutOfMemory, "training needs");
    CHECK_EQ(device->info().free_bytes, 100'000u);
  }
  Session session(model, adapter, session_options());
  const Documents documents({9});
  CHECK(train(session, {documents.batch()}, 1).front() > 0);
}

TEST(weights_that_do_not_fit_are_given_back) {
  const auto device = modelled_device();
  const uint64_t taken = device->info().total_bytes - device->info().free_bytes;
  const Setting small("LOWRANK_CUDA_MODEL_MEMORY", taken + 100'000);
  CHECK_ERROR(tiny_model(device), ErrorCode::kOutOfMemory, "bytes of device memory");
  CHECK_EQ(device->info().free_bytes, 100'000u);
}

TEST(a_fault_in_a_kernel_ends_the_device_with_one_message) {
  const uint64_t before = modelled_device()->info().free_bytes;
  {
    const Setting fault("LOWRANK_CUDA_MODEL_FAULT", 500);
    const auto model = tiny_model(modelled_device());
    const auto adapter = tiny_adapter(*model);
    Session session(model, adapter, session_options());
    const Documents documents({13, 9});
    const auto step = [&] { train(session, {documents.batch()}, 50); };
    const std::string message = message_of(step);
    CHECK(message.find("can't be used any more by this process") != std::string::npos);
    // Each call begins its message with its own name.
    const auto tail = [](const std::string& text) { return text.substr(text.find(']')); };
    CHECK_EQ(tail(message_of(step)), tail(message));
    CHECK_EQ(tail(message_of([&] { tiny_adapter(*model)->save("/tmp/never", ""); })),
             tail(message));
    CHECK_EQ(tail(message_of([&] { session.save_state("/tmp/never"); })), tail(message));
    CHECK_ERROR(model->impl()->device->info(), ErrorCode::kBackend, "can't be used any more");
  }
  CHECK_EQ(modelled_device()->info().free_bytes, before);
}

TEST(names_of_devices) {
  CHECK_EQ(std::string(modelled_device()->backend().name), "cuda");
  CHECK_EQ(std::string(Device::open("auto")->backend().name), "cuda");
  CHECK_EQ(std::string(Device::open("cuda:0")->backend().name), "cuda");
  CHECK_ERROR(Device::open("cuda:1"), ErrorCode::kBackend, "there is no GPU 1");
  for (const char* name : {"cuda:", "cuda:x", "cuda:0x", "cuda:-1", "gpu", ""})
    CHECK_ERROR(Device::open(name), ErrorCode::kInvalidArgument, "there is no device called");
  DeviceOptions cpu_only;
  cpu_only.isa = "reference";
  CHECK_ERROR(Device::open("cuda", cpu_only), ErrorCode::kInvalidArgument, "instruction set");
  CHECK_EQ(std::string(Device::open("auto", cpu_only)->backend().name), "cpu");
  ::setenv("LOWRANK_PLUGIN_PATH", "/nowhere", 1);
  CHECK_EQ(std::string(Device::open("auto")->backend().name), "cpu");
  CHECK_ERROR(Device::open("cuda"), ErrorCode::kUnsupported, "no cuda device");
}

}  // namespace
}  // namespace lowrank
