// Sessions and generators that share one device from threads of their own: the same bits as alone.
#include <thread>
#include <vector>

#include "backend/profile.h"
#include "support/test.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using namespace test;

constexpr int kSteps = 4;

struct Outcome {
  std::vector<double> losses;
  std::vector<float> adapter;
  bool operator==(const Outcome&) const = default;
};

Outcome train_alone(const std::shared_ptr<Device>& device, uint64_t seed) {
  const auto model = tiny_model(device);
  const auto adapter = tiny_adapter(*model, 0.1);
  Session session(model, adapter, session_options());
  const Documents documents({13, 9, 7}, seed);
  Outcome outcome;
  outcome.losses = train(session, {documents.batch()}, kSteps);
  outcome.adapter = adapter_values(*adapter);
  return outcome;
}

std::vector<int32_t> generate(const std::shared_ptr<Device>& device) {
  Generator generator(tiny_model(device), nullptr, 32);
  const int32_t prompt[] = {3, 1, 4, 1, 5};
  generator.prefill(prompt, 5);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 20; ++i) tokens.push_back(generator.next({}));
  return tokens;
}

void check_shared(const std::shared_ptr<Device>& device) {
  const Outcome first = train_alone(cpu(), 1), second = train_alone(cpu(), 2);
  const std::vector<int32_t> tokens = generate(cpu());
  for (int round = 0; round < 3; ++round) {
    Outcome shared_first, shared_second;
    std::vector<int32_t> shared_tokens;
    std::vector<std::thread> threads;
    threads.emplace_back([&] { shared_first = train_alone(device, 1); });
    threads.emplace_back([&] { shared_second = train_alone(device, 2); });
    threads.emplace_back([&] { shared_tokens = generate(device); });
    for (std::thread& thread : threads) thread.join();
    CHECK(shared_first == first);
    CHECK(shared_second == second);
    CHECK(shared_tokens == tokens);
  }
}

TEST(a_device_is_shared_by_threads) { check_shared(cpu(3)); }

TEST(a_profiled_device_is_shared_by_threads) {
  DeviceOptions options;
  options.threads = 3;
  const auto device = open_profiled("cpu", options);
  check_shared(device);
  CHECK(!take_profile(*device).empty());
}

}  // namespace
}  // namespace lowrank
