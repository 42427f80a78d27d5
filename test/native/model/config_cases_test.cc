// What every field of config.json does, against transformers: test/golden/config_fixture.py changed
// one field after the other in a tiny model of each family and noted the logits.
#include <filesystem>
#include <map>
#include <set>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"
#include "support/golden_model.h"
#include "support/temporary_folder.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

constexpr const char* kFamilies[] = {"llama", "mistral", "qwen2", "qwen3", "smollm3"};

std::string config_folder() { return std::string(LOWRANK_GOLDEN_FOLDER) + "/config/"; }

Json read_json(const std::string& file) { return Json::parse(read_text_file(file), file); }

// The configuration with fields replaced, set to null by "null", or removed by null.
Json changed(const Json& base, const Json& fields) {
  Json out = Json::object();
  for (const auto& [name, value] : base.as_object("base"))
    if (!fields.find(name.c_str())) out.append_member(name, value);
  for (const auto& [name, value] : fields.as_object("fields")) {
    if (value.is_null()) continue;
    const bool null = value.is_string() && value.as_string(name) == "null";
    out.append_member(name, null ? Json() : value);
  }
  return out;
}

// "name value" of the one field that a case changes; of a RoPE its type.
std::string summary(const Json& fields) {
  const auto& [name, value] = fields.as_object("fields").front();
  if (value.is_string()) return name + " " + value.as_string(name);
  if (!value.is_object()) return name + " " + value.dump();
  const bool partial = value.find("partial_rotary_factor") != nullptr;
  return name + " " + value.find("rope_type")->as_string(name) + (partial ? " partial" : "");
}

// The weights of a family in a folder whose config.json changes.
class Candidate {
 public:
  explicit Candidate(const std::string& family)
      : file_(config_folder() + family + "/expected.safetensors") {
    const auto* ids = reinterpret_cast<const int32_t*>(file_.at("ids").data);
    ids_.assign(ids, ids + file_.at("ids").count());
    std::filesystem::copy_file(config_folder() + family + "/model.safetensors",
                               folder_ / "model.safetensors");
  }
  std::vector<float> expected(int64_t row) const {
    const TensorView& logits = file_.at("logits");
    const auto* data = reinterpret_cast<const float*>(logits.data) + row * logits.shape[1];
    return {data, data + logits.shape[1]};
  }
  std::vector<float> last_logits(const Json& config) const {
    write_text_file(folder_ / "config.json", config.dump());
    ModelOptions options;
    options.max_length = 16;
    const auto model = Model::load(golden_device(nullptr), folder_.path(), options);
    const std::vector<float> all =
        forward_logits(model, nullptr, ids_.data(), static_cast<int64_t>(ids_.size()));
    return {all.end() - model->impl()->config.vocabulary, all.end()};
  }

 private:
  SafetensorsFile file_;
  TemporaryFolder folder_;
  std::vector<int32_t> ids_;
};

}  // namespace

TEST(default_configurations_are_read) {
  for (const std::string family : kFamilies) {
    const std::string file = config_folder() + "default_" + family + ".json";
    const Json both = read_json(file);
    for (const char* form : {"written", "to_dict"}) {
      const ModelConfig config = parse_model_config(both.find(form)->dump(), file);
      CHECK_EQ(config.family, family);
    }
  }
}

TEST(every_field_does_what_it_does_in_transformers_or_is_refused_by_name) {
  const Json cases = read_json(config_folder() + "cases.json");
  std::map<std::string, std::set<std::string>> refused;
  for (const std::string family : kFamilies) {
    const Json base = read_json(config_folder() + family + "/config.json");
    const Candidate candidate(family);
    for (const Json& one : cases.as_array("cases")) {
      if (one.find("family")->as_string("family") != family) continue;
      const Json& fields = *one.find("fields");
      const std::string what = family + " " + fields.dump();
      const Json config = changed(base, fields);
      try {
        const std::vector<float> actual = candidate.last_logits(config);
        if (!one.find("row")) {
          report_failure(__FILE__, __LINE__, what + " was taken");
          continue;
        }
        const std::vector<float> expected = candidate.expected(one.find("row")->as_integer("row"));
        const ModelConfig parsed = parse_model_config(config.dump(), what);
        const double off = distance(actual, expected);
        if (!(off <= f32_bound(parsed, 9)))
          report_failure(__FILE__, __LINE__, what + ": logits are off by " + std::to_string(off));
      } catch (const Error& error) {
        if (!one.find("row")) continue;
        const std::string text = std::string(error.what()) + " | " + error.where();
        bool named = false;
        for (const auto& [name, value] : fields.as_object("fields"))
          named = named || text.find(name) != std::string::npos;
        if (!named || one.find("inert")->as_bool("inert")) {
          report_failure(__FILE__, __LINE__, what + ": " + text);
          continue;
        }
        refused[family].insert(summary(fields));
      }
    }
  }
  // Everything else is taken: what transformers 5 computes, the engine computes.
  const std::set<std::string> all = {
      "attention_dropout 0.5",     "hidden_act gelu_fast",     "hidden_act mish",
      "hidden_act quick_gelu",     "hidden_act relu2",         "hidden_act tanh",
      "partial_rotary_factor 0.5", "rope_parameters longrope", "rope_parameters default partial",
      "tie_word_embeddings true"};
  const auto with = [&](std::set<std::string> more) {
    more.insert(all.begin(), all.end());
    return more;
  };
  // Fields of other families may mean something in a model's own code, so they aren't ignored.
  CHECK(refused["llama"] ==
        with({"pretraining_tp 2", "sliding_window 3", "use_sliding_window true",
              "max_window_layers 1", "no_rope_layers [0,1]", "no_rope_layers [0,0]",
              "no_rope_layer_interval 2", "use_qk_norm true"}));
  CHECK(refused["mistral"] == with({"attention_bias true"}));
  CHECK(refused["qwen2"] == with({"attention_bias true"}));
  CHECK(refused["qwen3"] == all);
  CHECK(refused["smollm3"] == with({"tie_word_embeddings null"}));
}

}  // namespace lowrank::test
