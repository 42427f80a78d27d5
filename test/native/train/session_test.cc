// What a step does: it learns, it doesn't depend on how work is split, and it fails cleanly.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "support/test.h"
#include "train/counting_backend.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using namespace test;
using Gradients = std::map<std::string, std::vector<float>>;

void check_learns(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter,
                  const SessionOptions& options, float learning_rate) {
  const Documents documents({13, 9, 7});
  Session session(model, adapter, options);
  const std::vector<double> losses = train(session, {documents.batch()}, 40, 1, learning_rate);
  CHECK_NEAR(losses.front(), std::log(67.0), 0.7);  // an untrained model knows nothing
  if (!(losses.back() < 0.25 * losses.front()))
    report_failure(__FILE__, __LINE__,
                   "the loss fell from " + std::to_string(losses.front()) + " to " +
                       std::to_string(losses.back()));
}

TEST(lora_learns) {
  const auto model = tiny_model(cpu());
  check_learns(model, tiny_adapter(*model), session_options(), 2e-2f);
}

TEST(lora_in_bf16_learns) {
  ModelOptions options;
  options.compute = DType::kBF16;
  const auto model = tiny_model(cpu(), options);
  check_learns(model, tiny_adapter(*model), session_options(), 2e-2f);
}

TEST(qlora_learns) {
  for (const Quantization quantization : {Quantization::kNf4, Quantization::kNf4Double}) {
    ModelOptions options;
    options.quantization = quantization;
    const auto model = tiny_model(cpu(), options);
    check_learns(model, tiny_adapter(*model), session_options(), 2e-2f);
  }
}

TEST(full_fine_tuning_learns) {
  for (const bool tied : {false, true}) {
    ModelOptions options;
    options.trainable = true;
    check_learns(tiny_model(cpu(), options, tiny_config(2, tied)), nullptr, session_options(),
                 5e-3f);
  }
}

// transformers gives the embedding padding_idx = pad_token_id: looking that row up trains nothing,
// and what a tied head adds to it stays.
TEST(the_padding_row_gets_no_gradient_from_lookups) {
  const Documents documents({13, 9, 7});
  const int32_t pad = documents.ids[3];
  const auto embedding_gradient = [&](const std::string& field, bool tied) {
    ModelOptions options;
    options.trainable = true;
    std::string config = tiny_config(2, tied);
    config.insert(1, field);
    Session session(tiny_model(cpu(), options, config), nullptr, session_options());
    Gradients gradients;
    session.gradients({documents.batch()}, 1, &gradients);
    return gradients.at("model.embed_tokens.weight");
  };
  const auto begin = static_cast<size_t>(pad) * 64, end = begin + 64;
  const std::string field = "\"pad_token_id\":" + std::to_string(pad) + ",";
  const std::string from_end = "\"pad_token_id\":" + std::to_string(pad - 67) + ",";
  for (const bool tied : {false, true}) {
    const std::vector<float> all = embedding_gradient("", tied);
    const std::vector<float> padded = embedding_gradient(field, tied);
    CHECK(embedding_gradient(from_end, tied) == padded);
    bool row_is_zero = true, row_differs = false, rest_equal = true;
    for (size_t i = 0; i < all.size(); ++i) {
      const bool in_row = i >= begin && i < end;
      if (!in_row) rest_equal = rest_equal && all[i] == padded[i];
      if (in_row) row_differs = row_differs || all[i] != padded[i];
      if (in_row) row_is_zero = row_is_zero && padded[i] == 0;
    }
    CHECK(rest_equal);
    CHECK(row_differs);
    CHECK_EQ(row_is_zero, !tied);
  }
}

TEST(the_8_bit_optimizer_learns) {
  ModelOptions options;
  options.trainable = true;
  SessionOptions session = session_options();
  session.optimizer = Optimizer::kAdamW8Bit;
  check_learns(tiny_model(cpu(), options, tiny_config(2)), nullptr, session, 5e-3f);
}

TEST(modules_to_save_learn) {
  const auto model = tiny_model(cpu());
  LoraOptions lora;
  lora.r = 2;
  lora.target_modules = {"q_proj"};
  lora.modules_to_save = {"lm_head", "embed_tokens"};
  const auto adapter = Adapter::create(*model, lora, 5);
  const std::vector<float> before = adapter_values(*adapter);
  const Documents documents({13, 9});
  std::vector<float> base(static_cast<const float*>(model->impl()->head.view.data),
                          static_cast<const float*>(model->impl()->head.view.data) + 67 * 64);
  check_learns(model, adapter, session_options(), 1e-2f);
  CHECK(adapter_values(*adapter) != before);
  CHECK(std::memcmp(base.data(), model->impl()->head.view.data, base.size() * 4) == 0);
}

// The largest difference relative to the largest value, over all tensors.
double difference(const Gradients& a, const Gradients& b) {
  double worst = 0;
  CHECK_EQ(a.size(), b.size());
  for (const auto& [name, x] : a) {
    const std::vector<float>& y = b.at(name);
    double largest = 0, apart = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      largest = std::max({largest, double{std::abs(x[i])}, double{std::abs(y[i])}});
      apart = std::max(apart, std::abs(double{x[i]} - y[i]));
    }
    if (largest > 0) worst = std::max(worst, apart / largest);
  }
  return worst;
}

TEST(micro_batches_give_the_gradient_of_one_batch) {
  const auto model = tiny_model(cpu());
  const auto adapter = tiny_adapter(*model);
  Session session(model, adapter, session_options());
  // B = 0 would hide A's gradient.
  train(session, {Documents({8}, 3).batch()}, 2);

  Documents together({21, 4}), longer({21}), shorter({4});
  std::copy_n(together.ids.begin(), 21, longer.ids.begin());
  std::copy_n(together.ids.begin() + 21, 4, shorter.ids.begin());
  together.labels[7] = -100;
  together.weights[9] = 0.25f;
  together.weights[23] = 3;
  std::copy_n(together.labels.begin(), 21, longer.labels.begin());
  std::copy_n(together.labels.begin() + 21, 4, shorter.labels.begin());
  std::copy_n(together.weights.begin(), 21, longer.weights.begin());
  std::copy_n(together.weights.begin() + 21, 4, shorter.weights.begin());

  Gradients one, two;
  const StepResult a = session.gradients({together.batch()}, 3, &one);
  const StepResult b = session.gradients({longer.batch(), shorter.batch()}, 3, &two);
  CHECK_EQ(a.weight, b.weight);
  CHECK_EQ(a.label_tokens, 22);
  CHECK_EQ(b.label_tokens, 22);
  CHECK_EQ(a.weight, 22 - 0.75 + 2);
  // f32 sums in another order.
  CHECK_NEAR(a.loss, b.loss, 1e-6 * a.loss);
  CHECK_NEAR(a.grad_norm, b.grad_norm, 1e-5 * a.grad_norm);
  CHECK(a.grad_norm > 1e-3);
  CHECK(difference(one, two) < 2e-5);
}

TEST(evaluation_is_the_loss_of_a_step) {
  const auto model = tiny_model(cpu());
  Session session(model, tiny_adapter(*model, 0.5), session_options());
  Documents a({11, 5}), b({9}, 2);
  a.weights[3] = 0.5f;
  b.weights[4] = 0;
  const std::vector<MicroBatch> batches{a.batch(), b.batch()};
  std::vector<float> per_token(16 + 9, 7);
  const StepResult result = session.evaluate(batches, per_token.data());
  CHECK_EQ(result.tokens, 25);
  CHECK_EQ(result.label_tokens, 10 + 4 + 7);
  CHECK_EQ(per_token[0], 0.0f);
  CHECK_EQ(per_token[11], 0.0f);
  CHECK_EQ(per_token[16], 0.0f);
  CHECK(per_token[16 + 4] < 0);  // a label of weight 0 is reported too
  double sum = 0;
  for (size_t i = 0; i < 16; ++i) sum -= double{a.weights[i]} * per_token[i];
  for (size_t i = 0; i < 9; ++i) sum -= double{b.weights[i]} * per_token[16 + i];
  CHECK_NEAR(result.loss, sum / result.weight, 1e-12);
  // B = 0: dropout changes nothing in the first step, so training sees the same loss.
  CHECK_EQ(train(session, batches, 1).front(), result.loss);
  CHECK(session.evaluate(batches).loss < result.loss);
}

struct Run {
  std::vector<double> losses;
  std::vector<float> values;
  PlanReport plan;
};

Run run_with(const SessionOptions& options, int threads, DType compute = DType::kF32) {
  ModelOptions model_options;
  model_options.compute = compute;
  const auto model = tiny_model(cpu(threads), model_options, tiny_config(4));
  const auto adapter = tiny_adapter(*model, 0.1);
  Session session(model, adapter, options);
  const Documents a({13, 9, 7}), b({17}, 2);
  Run run;
  run.losses = train(session, {a.batch(), b.batch()}, 4);
  run.values = adapter_values(*adapter);
  run.plan = session.plan();
  return run;
}

TEST(checkpointing_changes_no_bit) {
  SessionOptions options = session_options();
  options.checkpointing = Checkpointing::kNone;
  const Run none = run_with(options, 1);
  options.checkpointing = Checkpointing::kBlock;
  const Run block = run_with(options, 1);
  options.checkpointing = Checkpointing::kAuto;
  options.memory_budget = (none.plan.total_bytes + block.plan.total_bytes) / 2;
  const Run mixed = run_with(options, 1);
  options.memory_budget = 0;
  const Run roomy = run_with(options, 1);

  CHECK_EQ(none.plan.recomputed_layers, 0);
  CHECK_EQ(block.plan.recomputed_layers, 3);  // the last block's values are still there
  CHECK(mixed.plan.recomputed_layers == 1 || mixed.plan.recomputed_layers == 2);
  CHECK(mixed.plan.total_bytes <= (none.plan.total_bytes + block.plan.total_bytes) / 2);
  CHECK_EQ(roomy.plan.recomputed_layers, 0);
  CHECK(block.plan.total_bytes < none.plan.total_bytes);
  for (const Run* run : {&block, &mixed, &roomy}) {
    CHECK(run->losses == none.losses);
    CHECK(run->values == none.values);
  }
}

TEST(threads_change_no_bit) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    const Run one = run_with(session_options(), 1, compute);
    const Run two = run_with(session_options(), 2, compute);
    const Run five = run_with(session_options(), 5, compute);
    CHECK(one.losses == two.losses && one.values == two.values);
    CHECK(one.losses == five.losses && one.values == five.values);
  }
}

TEST(dropout_depends_on_seed_and_step) {
  const auto model = tiny_model(cpu());
  const Documents documents({20});
  const auto norm_of = [&](uint64_t seed, int64_t step) {
    SessionOptions options = session_options();
    options.seed = seed;
    Session session(model, tiny_adapter(*model, 0.5), options);
    Gradients gradients;
    return session.gradients({documents.batch()}, step, &gradients).grad_norm;
  };
  CHECK_EQ(norm_of(1, 1), norm_of(1, 1));
  CHECK(norm_of(1, 1) != norm_of(2, 1));
  CHECK(norm_of(1, 1) != norm_of(1, 2));
}

TEST(an_adapter_on_upper_layers_has_the_same_gradients) {
  const auto model = tiny_model(cpu());
  LoraOptions upper;
  upper.r = 4;
  upper.lora_alpha = 8;
  upper.target_pattern = "model\\.layers\\.2\\..*proj";
  const auto all = tiny_adapter(*model), some = Adapter::create(*model, upper, 5);
  Session all_session(model, all, session_options()), some_session(model, some, session_options());
  const Documents documents({20});
  Gradients all_gradients, some_gradients;
  all_session.gradients({documents.batch()}, 1, &all_gradients);
  some_session.gradients({documents.batch()}, 1, &some_gradients);
  CHECK_EQ(some_gradients.size(), 14u);
  // B = 0, so the adapters below don't matter; A starts differently, which B's gradient sees.
  for (size_t i = 0; i < some->impl()->modules.size(); ++i) {
    LoraModule& from = all->impl()->modules[14 + i];
    CHECK_EQ(from.name, some->impl()->modules[i].name);
    some->impl()->modules[i].a.upload(from.a.data(), from.a.bytes());
  }
  some_session.gradients({documents.batch()}, 1, &some_gradients);
  for (const auto& [name, gradient] : some_gradients) CHECK(gradient == all_gradients.at(name));
  CHECK(some_session.plan().total_bytes < all_session.plan().total_bytes);
}

TEST(weight_decay_spares_norms_and_biases) {
  ModelOptions options;
  options.trainable = true;
  const auto model = tiny_model(cpu(), options, tiny_config(1));
  const std::vector<float> before = [&] {
    const auto* data = model->impl()->embedding.data.as<const float>();
    return std::vector<float>(data, data + 67 * 64);
  }();
  SessionOptions session_with_decay = session_options();
  session_with_decay.weight_decay = 500;
  Session session(model, nullptr, session_with_decay);
  train(session, {Documents({20}).batch()}, 1, 1, 1e-3f);
  // decay 1 - 1e-3 * 500; Adam's own first step is at most the learning rate.
  for (size_t i = 0; i < before.size(); ++i)
    CHECK_NEAR(model->impl()->embedding.data.as<const float>()[i], 0.5 * before[i], 1.01e-3);
  for (int64_t i = 0; i < 64; ++i) CHECK_NEAR(model->impl()->final_norm.get()[i], 1, 1.01e-3);
}

TEST(clipping_scales_the_gradient) {
  // With eps far above the gradient, AdamW's first step is learning_rate / eps times the gradient.
  const auto change_with = [](float max_norm, double* norm) {
    const auto model = tiny_model(cpu());
    const auto adapter = tiny_adapter(*model);
    SessionOptions options = session_options();
    options.max_grad_norm = max_norm;
    options.eps = 1e3;
    Session session(model, adapter, options);
    const Documents documents({20});
    const std::vector<float> before = adapter_values(*adapter);
    StepOptions step;
    step.step = 1;
    step.learning_rate = 1e3f;
    *norm = session.step({documents.batch()}, step).grad_norm;
    const std::vector<float> after = adapter_values(*adapter);
    double sum = 0;
    for (size_t i = 0; i < after.size(); ++i)
      sum += (double{after[i]} - before[i]) * (double{after[i]} - before[i]);
    return std::sqrt(sum);
  };
  double norm = 0, clipped_norm = 0;
  const double change = change_with(0, &norm);
  CHECK_NEAR(change, norm, 0.01 * norm);
  const auto limit = static_cast<float>(norm / 4);
  CHECK_NEAR(change_with(limit, &clipped_norm), norm / 4, 0.01 * norm);
  CHECK_EQ(clipped_norm, norm);
}

TEST(abort_between_micro_batches_changes_nothing) {
  const auto device = CountingBackend::open();
  const auto model = tiny_model(device);
  const auto adapter = tiny_adapter(*model);
  Session session(model, adapter, session_options());
  const Documents a({20}), b({9}, 2);
  const std::vector<MicroBatch> batches{a.batch(), b.batch()};
  std::atomic<bool> abort{false};
  int calls = 0;
  CountingBackend::before_head_loss([&] {
    ++calls;
    abort = true;
  });
  const std::vector<float> before = adapter_values(*adapter);
  StepOptions options;
  options.step = 1;
  options.learning_rate = 1e-2f;
  const StepResult result = session.step(batches, options, &abort);
  CHECK(result.aborted);
  CHECK_EQ(calls, 1);
  CHECK(adapter_values(*adapter) == before);
  CHECK(session.evaluate(batches, nullptr, &abort).aborted);
  CountingBackend::before_head_loss({});

  const double loss = train(session, batches, 1).front();
  const auto fresh = tiny_adapter(*model);
  Session clean(model, fresh, session_options());
  CHECK_EQ(train(clean, batches, 1).front(), loss);
  CHECK(adapter_values(*fresh) == adapter_values(*adapter));
}

TEST(misuse_is_refused) {
  const auto model = tiny_model(cpu());
  const auto adapter = tiny_adapter(*model);
  CHECK_ERROR(Session(model, nullptr, session_options()), ErrorCode::kInvalidArgument, "frozen");
  CHECK_ERROR(Session(tiny_model(cpu()), adapter, session_options()), ErrorCode::kInvalidArgument,
              "another model");
  CHECK_ERROR(Session(model, adapter, session_options(0)), ErrorCode::kInvalidArgument,
              "max_tokens");
  SessionOptions small = session_options();
  small.memory_budget = 1000;
  CHECK_ERROR(Session(model, adapter, small), ErrorCode::kOutOfMemory, "1 MB are free");

  Session session(model, adapter, session_options());
  Documents documents({20});
  CHECK_ERROR(train(session, {documents.batch()}, 1, 0), ErrorCode::kInvalidArgument,
              "count from 1");
  CHECK_ERROR(train(session, {documents.batch()}, 1, 1, std::nanf("")), ErrorCode::kInvalidArgument,
              "learning rate");
  for (int32_t& label : documents.labels) label = -100;
  CHECK_ERROR(train(session, {documents.batch()}, 1), ErrorCode::kInvalidArgument,
              "no token carries a label");
  CHECK_EQ(session.evaluate({documents.batch()}).weight, 0.0);
}

}  // namespace
}  // namespace lowrank
