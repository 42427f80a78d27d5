#include "model/merge.h"

#include "model/model_files.h"

namespace lowrank {
namespace {

using namespace lowrank::test;

TEST(merged_weights_equal_pefts) {
  const TemporaryFolder folder;
  for (const std::string name :
       {"plain", "all_linear", "patterns", "narrowed", "saved", "tied_saved"}) {
    const std::string base = golden(name == "tied_saved" ? "tied_model" : "model");
    const MergeReport report = merge_adapter(cpu(), base, golden(name), folder / name, {});
    CHECK(report.tensors_merged > 0);
    // The same sums in another order, through 2 layers.
    CHECK(report.max_logit_difference < 200 * 0x1p-24 * report.max_logit);
    const SafetensorsFile expected(golden(name + "/expected.safetensors"));
    const ShardedTensors merged(folder / name), original(base);
    int64_t changed = 0;
    for (const TensorView& tensor : expected.tensors()) {
      if (tensor.name.compare(0, 7, "merged.") != 0) continue;
      const ShardedTensors::Entry* entry = merged.find(tensor.name.substr(7));
      CHECK(entry != nullptr);
      if (!entry) continue;
      ++changed;
      // At most 4 terms and a sum of values below 2 in magnitude.
      CHECK_NEAR(largest_difference(tensor_floats(*entry->tensor), tensor_floats(tensor)), 0,
                 8 * 0x1p-24 * 2);
    }
    CHECK(changed >= report.tensors_merged);
    for (const ShardedTensors::Entry& entry : original.entries())
      if (!expected.find("merged." + entry.tensor->name))
        CHECK(tensor_floats(*entry.tensor) ==
              tensor_floats(*merged.find(entry.tensor->name)->tensor));
    CHECK(file_exists(folder / (name + "/generation_config.json")));
  }
  // A tied pair that training pulled apart is written apart.
  const ShardedTensors untied(folder / "tied_saved");
  CHECK(untied.find("lm_head.weight") != nullptr);
  const auto model = load_model(cpu(), folder / "tied_saved", {}, {}, nullptr);
  CHECK(!model->config.tied_embeddings);
}

TEST(merge_keeps_the_type_of_each_tensor) {
  const TemporaryFolder folder;
  const auto model = create_model(cpu(), tiny_config("bfloat16"), {}, 3);
  save_model(*model, folder / "base", DType::kBF16);
  LoraOptions options;
  options.target_modules = {"all-linear"};
  const auto adapter = create_adapter(model, options, 1);
  for (LoraModule& module : adapter->modules) module.b.as<float>()[0] = 0.25f;
  save_adapter(*adapter, folder / "adapter", "");
  int64_t last = 0;
  const MergeReport report =
      merge_adapter(cpu(), folder / "base", folder / "adapter", folder / "out",
                    [&](int64_t done, int64_t total) { last = total - done; });
  CHECK_EQ(last, int64_t{0});
  CHECK_EQ(report.tensors_merged, int64_t{14});
  const auto merged = load_model(cpu(), folder / "out", {}, {}, nullptr);
  CHECK(merged->layers[0].linear[0].view.storage == Storage::kBF16);
  const std::vector<float> before = values_of(*model, "model.layers.0.self_attn.q_proj.weight");
  const std::vector<float> after = values_of(*merged, "model.layers.0.self_attn.q_proj.weight");
  const float* a = adapter->modules[0].a.as<const float>();
  for (size_t i = 0; i < 64; ++i) CHECK_EQ(after[i], to_float(to_bf16(before[i] + 0.25f * a[i])));
  for (size_t i = 64; i < before.size(); ++i) CHECK_EQ(after[i], before[i]);
}

TEST(merge_leaves_nothing_behind_when_it_fails) {
  const TemporaryFolder folder;
  CHECK_ERROR(merge_adapter(cpu(), golden("model"), golden("none"), folder / "out", {}),
              ErrorCode::kInvalidFile, "adapter_config.json");
  CHECK_ERROR(merge_adapter(cpu(), golden("model"), golden("plain"), golden("model"), {}),
              ErrorCode::kInvalidArgument, "own folder");
  copy_folder(golden("plain"), folder / "nan");
  const auto model = load_model(cpu(), golden("model"), {}, {}, nullptr);
  const auto adapter = load_adapter(model, golden("plain"));
  adapter->modules[0].b.as<float>()[0] = NAN;
  save_adapter(*adapter, folder / "nan", "");
  CHECK_ERROR(merge_adapter(cpu(), golden("model"), folder / "nan", folder / "out", {}),
              ErrorCode::kNotFinite, "aren't finite");
  CHECK(!folder_exists(folder / "out"));
  CHECK_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

}  // namespace
}  // namespace lowrank
