// The engine over the modelled plug-in, whose memory the host can't touch, against the engine over
// the CPU. golden_curves_test.cc and state_test.cc run over it too.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "io/safetensors.h"
#include "model/adapter.h"
#include "support/temporary_folder.h"
#include "support/test.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using namespace test;

std::shared_ptr<Device> real_cpu() { return Device::open("cpu", {}); }

// What the other tests of this file rely on.
TEST(the_host_cannot_touch_device_memory) {
  const Buffer buffer(modelled_device(), 4096);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(STDERR_FILENO);  // of a sanitizer's report
    ::_exit(*buffer.as<volatile const char>());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  CHECK(!(WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

// Greedy tokens and the logits before each.
struct Text {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
};
Text continue_prompt(const std::shared_ptr<Device>& device, const ModelOptions& options) {
  const auto model = tiny_model(device, options, tiny_config(2));
  const auto adapter = tiny_adapter(*model);
  Session session(model, adapter, session_options());
  const Documents documents({13, 9, 7});
  train(session, {documents.batch()}, 3);
  Generator generator(model, adapter, 16);
  generator.prefill(documents.ids.data(), 6);
  Text text;
  while (text.tokens.size() < 8) {
    const std::vector<float>& logits = generator.logits();
    text.logits.insert(text.logits.end(), logits.begin(), logits.end());
    text.tokens.push_back(generator.next({}));
  }
  return text;
}

// Three steps of training and up to 14 tokens read: f32 sums of at most 96 products in another
// order, over two blocks there and back. Logits are of order 1.
TEST(generation_gives_the_tokens_of_the_cpu) {
  for (const Quantization quantization : {Quantization::kNone, Quantization::kNf4Double}) {
    ModelOptions options;
    options.quantization = quantization;
    const Text expected = continue_prompt(real_cpu(), options);
    const Text actual = continue_prompt(modelled_device(), options);
    CHECK(actual.tokens == expected.tokens);
    double worst = 0;
    for (size_t i = 0; i < expected.logits.size(); ++i)
      worst = std::max(worst, std::abs(double{actual.logits[i]} - double{expected.logits[i]}));
    CHECK(worst > 0 && worst < 1e-3);
  }
}

TEST(evaluation_is_the_cpus_token_by_token) {
  const Documents documents({13, 9, 7});
  const auto log_probabilities = [&](const std::shared_ptr<Device>& device) {
    const auto model = tiny_model(device);
    Session session(model, tiny_adapter(*model), session_options());
    std::vector<float> values(documents.ids.size());
    session.evaluate({documents.batch()}, values.data());
    return values;
  };
  const std::vector<float> expected = log_probabilities(real_cpu());
  const std::vector<float> actual = log_probabilities(modelled_device());
  for (size_t i = 0; i < expected.size(); ++i) CHECK_NEAR(actual[i], expected[i], 1e-4);
}

// More micro-batches than a device keeps results of, one without a label, one with weights.
TEST(results_of_many_micro_batches_are_those_of_the_cpu) {
  std::vector<Documents> documents;
  for (uint64_t i = 0; i < 35; ++i) documents.emplace_back(std::vector<int32_t>{3, 4}, i);
  std::fill(documents[7].labels.begin(), documents[7].labels.end(), -100);
  for (size_t i = 0; i < 7; ++i) documents[20].weights[i] = 0.5f * static_cast<float>(i % 3);
  std::vector<MicroBatch> batches;
  for (const Documents& each : documents) batches.push_back(each.batch());
  const auto step = [&](const std::shared_ptr<Device>& device) {
    const auto model = tiny_model(device, {}, tiny_config(1));
    Session session(model, tiny_adapter(*model), session_options());
    StepOptions options;
    options.step = 1;
    options.learning_rate = 1e-2f;
    return session.step(batches, options);
  };
  const StepResult expected = step(real_cpu()), actual = step(modelled_device());
  // Each of about 170 log-probabilities is off by less than 1e-5.
  CHECK_NEAR(actual.loss, expected.loss, 1e-5);
  CHECK_NEAR(actual.grad_norm, expected.grad_norm, 1e-4 * expected.grad_norm);
  CHECK_EQ(actual.correct, expected.correct);
  CHECK_EQ(actual.label_tokens, expected.label_tokens);
}

TEST(what_is_created_and_saved_has_the_bits_of_the_cpu) {
  const TemporaryFolder folder;
  ModelOptions options;
  options.trainable = true;
  tiny_model(real_cpu(), options)->save(folder / "cpu", DType::kBF16);
  tiny_model(modelled_device(), options)->save(folder / "cuda", DType::kBF16);
  const SafetensorsFile expected(folder / "cpu/model.safetensors");
  const SafetensorsFile actual(folder / "cuda/model.safetensors");
  CHECK_EQ(actual.tensors().size(), expected.tensors().size());
  for (const TensorView& tensor : expected.tensors())
    CHECK(std::equal(tensor.data, tensor.data + tensor.bytes, actual.at(tensor.name).data));
}

TEST(device_memory_is_given_back) {
  const auto device = modelled_device();
  const uint64_t before = device->info().free_bytes;
  {
    const auto model = tiny_model(device);
    const auto adapter = tiny_adapter(*model);
    const Session session(model, adapter, session_options());
    const Generator generator(model, adapter, 16);
    CHECK(device->info().free_bytes < before);
  }
  CHECK_EQ(device->info().free_bytes, before);
}

}  // namespace
}  // namespace lowrank
