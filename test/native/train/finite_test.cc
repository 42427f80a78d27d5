// The end of a step: the device itself refuses to update what isn't finite, and the host waits
// once.
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "support/test.h"
#include "train/counting_backend.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using namespace test;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The bits, so that NaN equals NaN.
bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// A session after two steps.
struct Run {
  Run(const std::shared_ptr<Device>& device, std::vector<MicroBatch> of)
      : batches(std::move(of)),
        model(tiny_model(device)),
        adapter(tiny_adapter(*model)),
        session(model, adapter, session_options()) {
    train(session, batches, 2);
  }

  // The third step, twice.
  void check_fails(const char* text) {
    CHECK_ERROR(train(session, batches, 1, 3), ErrorCode::kNotFinite, text);
    CHECK_ERROR(train(session, batches, 1, 3), ErrorCode::kNotFinite, "step 3");
  }

  // What follows is as if the failed steps had never been tried.
  void check_unharmed() {
    Run clean(model->impl()->device, batches);
    CHECK(train(session, batches, 2, 3) == train(clean.session, batches, 2, 3));
    CHECK(same_bits(adapter_values(*adapter), adapter_values(*clean.adapter)));
  }

  std::vector<MicroBatch> batches;
  std::shared_ptr<Model> model;
  std::shared_ptr<Adapter> adapter;
  Session session;
};

// Where results are read after each micro-batch, and where they are at the end of a step.
std::vector<std::shared_ptr<Device>> both_devices() {
  return {CountingBackend::open(), CountingBackend::open_apart()};
}

// A value of B turns bad between the first forward and its backward: the first loss is finite, its
// gradients aren't, and neither is the next loss.
void check_not_finite(const std::vector<MicroBatch>& batches, const char* text) {
  for (const auto& device : both_devices()) {
    Run run(device, batches);
    const std::vector<float> before = adapter_values(*run.adapter);
    float* b = run.adapter->impl()->modules.back().b.as<float>();
    const float good = b[0];
    CountingBackend::before_head_loss([&] { b[0] = kNan; });
    run.check_fails(text);
    CountingBackend::before_head_loss({});
    b[0] = good;
    CHECK(same_bits(adapter_values(*run.adapter), before));
    run.check_unharmed();
  }
}

TEST(a_step_that_is_not_finite_changes_nothing) {
  const Documents a({20}), b({9}, 2);
  check_not_finite({a.batch()}, "the gradient is not finite");
  check_not_finite({a.batch(), b.batch()}, "the loss is not finite");
}

TEST(a_loss_that_is_not_finite_stops_an_update_by_finite_gradients) {
  const Documents a({20}), b({9}, 2);
  for (const auto& device : both_devices())
    for (const int bad_call : {0, 1}) {
      Run run(device, {a.batch(), b.batch()});
      const std::vector<float> before = adapter_values(*run.adapter);
      int calls = 0;
      CountingBackend::after_head_loss([&](const HeadLoss& op) {
        if (calls++ % 2 == bad_call) op.logprob[op.count - 1] = -kInfinity;
      });
      CHECK_ERROR(train(run.session, run.batches, 1, 3), ErrorCode::kNotFinite,
                  "the loss is not finite");
      CountingBackend::after_head_loss({});
      CHECK(same_bits(adapter_values(*run.adapter), before));
      run.check_unharmed();
    }
}

// What stands behind a step's last result is left from an earlier one.
TEST(results_of_other_steps_stop_nothing) {
  Documents a({20}), b({9}, 2);
  b.weights[8] = 0;  // has no result
  for (const auto& device : both_devices()) {
    Run run(device, {a.batch(), b.batch()});
    CountingBackend::after_head_loss([](const HeadLoss& op) { op.logprob[op.count] = kNan; });
    train(run.session, run.batches, 1, 3);
    CountingBackend::after_head_loss({});
    Run clean(device, run.batches);
    train(clean.session, clean.batches, 1, 3);
    CHECK(same_bits(adapter_values(*run.adapter), adapter_values(*clean.adapter)));
  }
}

TEST(the_host_waits_once_in_a_step) {
  const Documents full({32});
  const auto waits_of = [&](size_t micro_batches) {
    const auto model = tiny_model(CountingBackend::open_apart(), {}, tiny_config(1));
    SessionOptions options = session_options(32);
    options.max_labels = 31;
    Session session(model, tiny_adapter(*model), options);
    const std::vector<MicroBatch> batches(micro_batches, full.batch());
    train(session, batches, 1);
    const int64_t before = CountingBackend::waits();
    train(session, batches, 1, 2);
    CHECK(CountingBackend::idle());  // the update was enqueued before the wait
    return CountingBackend::waits() - before;
  };
  CHECK_EQ(waits_of(1), 1);
  CHECK_EQ(waits_of(16), 1);
  CHECK_EQ(waits_of(17), 2);  // results of 16 fit
}

TEST(memory_apart_from_the_hosts_changes_no_bit) {
  Documents a({13, 9, 7}), b({17}, 2), unlabelled({5}, 3);
  b.weights[4] = 0;
  for (int32_t& label : unlabelled.labels) label = -100;
  const std::vector<MicroBatch> batches{a.batch(), unlabelled.batch(), b.batch()};
  Run near(CountingBackend::open(), batches), apart(CountingBackend::open_apart(), batches);
  CHECK(train(near.session, batches, 3, 3) == train(apart.session, batches, 3, 3));
  CHECK(same_bits(adapter_values(*near.adapter), adapter_values(*apart.adapter)));
}

}  // namespace
}  // namespace lowrank
