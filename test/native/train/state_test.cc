// Optimizer states survive a file bit for bit.
#include <cstdio>
#include <filesystem>

#include "core/error.h"
#include "io/safetensors.h"
#include "support/test.h"
#include "train/tiny_model.h"

namespace lowrank {
namespace {

using namespace test;

// A folder of this test's own, removed at the end.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/lowrank-state-XXXXXX";
    path_ = mkdtemp(name);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

void check_resume(const SessionOptions& options) {
  const Folder folder;
  const Documents a({13, 9, 7}), b({17}, 2);
  const std::vector<MicroBatch> batches{a.batch(), b.batch()};
  LoraOptions lora;
  lora.r = 4;
  lora.lora_dropout = 0.1;
  lora.target_modules = {"all-linear"};
  lora.modules_to_save = {"lm_head"};  // above the size from which states have 8 bits

  const auto model = tiny_model(cpu());
  const auto whole = Adapter::create(*model, lora, 5);
  Session uninterrupted(model, whole, options);
  train(uninterrupted, batches, 3);
  uninterrupted.save_state(folder / "state.safetensors");
  whole->save(folder / "adapter");
  const std::vector<double> expected = train(uninterrupted, batches, 4, 4);

  const auto fresh_model = tiny_model(cpu());
  const auto resumed = Adapter::load(*fresh_model, folder / "adapter");
  Session session(fresh_model, resumed, options);
  session.load_state(folder / "state.safetensors");
  CHECK(train(session, batches, 4, 4) == expected);
  CHECK(adapter_values(*resumed) == adapter_values(*whole));

  // Without the states the losses differ, so the comparison above can fail.
  const auto stateless = Adapter::load(*fresh_model, folder / "adapter");
  Session without(fresh_model, stateless, options);
  CHECK(train(without, batches, 4, 4) != expected);
}

TEST(resuming_continues_bit_for_bit) { check_resume(session_options()); }

TEST(resuming_8_bit_states_continues_bit_for_bit) {
  SessionOptions options = session_options();
  options.optimizer = Optimizer::kAdamW8Bit;
  check_resume(options);
}

TEST(the_file_says_what_it_holds) {
  const Folder folder;
  const auto model = tiny_model(cpu());
  SessionOptions options = session_options();
  options.optimizer = Optimizer::kAdamW8Bit;
  LoraOptions lora;
  lora.r = 4;
  lora.target_modules = {"q_proj"};
  lora.modules_to_save = {"lm_head"};
  Session session(model, Adapter::create(*model, lora, 5), options);
  train(session, {Documents({20}).batch()}, 3);
  session.save_state(folder / "state.safetensors");
  const SafetensorsFile file(folder / "state.safetensors");
  CHECK_EQ(file.metadata().at("step"), "3");
  const std::string module = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
  CHECK(file.at(module + ".exp_avg").dtype == DType::kF32);  // below 4,096 values
  CHECK_EQ(file.at(module + ".exp_avg_sq").count(), 4 * 64);
  const std::string head = "base_model.model.lm_head.weight";
  CHECK(file.at(head + ".exp_avg").dtype == DType::kU8);
  CHECK(file.at(head + ".exp_avg").shape == (std::vector<int64_t>{67, 64}));
  CHECK_EQ(file.at(head + ".exp_avg_sq.absmax").count(), (67 * 64 + 255) / 256);
}

TEST(a_state_that_does_not_fit_is_refused) {
  const Folder folder;
  const auto model = tiny_model(cpu());
  const auto adapter = tiny_adapter(*model);
  Session session(model, adapter, session_options());
  const Documents documents({20});
  train(session, {documents.batch()}, 2);
  session.save_state(folder / "state.safetensors");

  LoraOptions other;
  other.r = 2;
  other.target_modules = {"all-linear"};
  Session other_rank(model, Adapter::create(*model, other, 5), session_options());
  CHECK_ERROR(other_rank.load_state(folder / "state.safetensors"), ErrorCode::kInvalidFile,
              "lora_A.weight.exp_avg");
  other.r = 4;
  other.target_modules = {"q_proj"};
  Session fewer(model, Adapter::create(*model, other, 5), session_options());
  CHECK_ERROR(fewer.load_state(folder / "state.safetensors"), ErrorCode::kInvalidFile,
              "doesn't train");
  CHECK_ERROR(session.load_state(folder / "absent.safetensors"), ErrorCode::kIo, "absent");

  SafetensorsWriter writer(folder / "other.safetensors");
  writer.finish();
  CHECK_ERROR(session.load_state(folder / "other.safetensors"), ErrorCode::kInvalidFile,
              "isn't an optimizer state");
  // A refused file leaves the states alone.
  const std::vector<double> losses = train(session, {documents.batch()}, 2, 3);
  const auto clean_adapter = tiny_adapter(*model);
  Session clean(model, clean_adapter, session_options());
  train(clean, {documents.batch()}, 2);
  CHECK(train(clean, {documents.batch()}, 2, 3) == losses);
}

}  // namespace
}  // namespace lowrank
