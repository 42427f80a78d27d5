// W + scale * B A as a Hugging Face folder: tensor by tensor and row by row, so that a model larger
// than memory can be merged.
#include "model/merge.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <vector>

#include "core/error.h"
#include "io/files.h"
#include "io/json.h"
#include "io/sharded.h"
#include "model/adapter.h"
#include "model/forward_logits.h"
#include "model/place_weights.h"
#include "model/prequantized.h"

namespace lowrank {
namespace {

// What a model folder needs beside its weights and config.json.
constexpr const char* kCompanions[] = {
    "generation_config.json",  "tokenizer.json",       "tokenizer_config.json",
    "tokenizer.model",         "vocab.json",           "merges.txt",
    "special_tokens_map.json", "added_tokens.json",    "chat_template.jinja",
    "chat_template.json",      "processor_config.json"};

std::vector<float> host_floats(const Buffer& buffer) {
  std::vector<float> values(buffer.bytes() / sizeof(float));
  buffer.download(values.data(), buffer.bytes());
  return values;
}

// One row of scale * B A, f32: the sum over the rank in ascending order, then the scale.
void delta_row(const LoraModule& module, const std::vector<float>& a, const std::vector<float>& b,
               int64_t row, float* delta) {
  std::fill(delta, delta + module.in, 0.0f);
  for (int64_t k = 0; k < module.rank; ++k) {
    const float factor = b[static_cast<size_t>(row * module.rank + k)];
    const float* a_row = a.data() + k * module.in;
    for (int64_t i = 0; i < module.in; ++i) delta[i] += factor * a_row[i];
  }
  for (int64_t i = 0; i < module.in; ++i) delta[i] *= module.scale;
}

class Merger {
 public:
  Merger(const ShardedTensors& tensors, const AdapterImpl& adapter) : adapter_(adapter) {
    for (const LoraModule& module : adapter.modules) modules_[module.name + ".weight"] = &module;
    const bool tied = adapter.model->config.tied_embeddings;
    const std::string& embedding = adapter.model->config.names.embedding;
    const std::string& head = adapter.model->config.names.head;
    // Once one of the two is trained apart, they differ.
    untied_ = tied && (adapter.find_saved(embedding) || adapter.find_saved(head));
    for (const ShardedTensors::Entry& entry : tensors.entries()) {
      if (tied && entry.tensor->name == head && tensors.find(embedding)) continue;
      sources_.push_back({entry.tensor->name, &entry});
    }
    if (!untied_) return;
    const ShardedTensors::Entry* shared = tensors.find(embedding);
    if (shared)
      sources_.push_back({head, shared});
    else
      sources_.push_back({embedding, tensors.find(head)});
  }

  bool untied() const { return untied_; }
  int64_t merged() const { return merged_; }

  void write(const std::string& folder, const Progress& progress) {
    std::vector<TensorSpec> specs;
    int64_t total = 0, done = 0;
    for (const Source& source : sources_) {
      const TensorView& tensor = *source.entry->tensor;
      specs.push_back({source.name, tensor.dtype, tensor.shape});
      total += static_cast<int64_t>(tensor.bytes);
    }
    ShardedWriter writer(folder, std::move(specs));
    for (const Source& source : sources_) {
      write_tensor(source.name, *source.entry->tensor, &writer);
      source.entry->file->drop(*source.entry->tensor);
      done += static_cast<int64_t>(source.entry->tensor->bytes);
      if (progress) progress(done, total);
    }
    writer.finish();
  }

 private:
  struct Source {
    std::string name;
    const ShardedTensors::Entry* entry;
  };

  void write_tensor(const std::string& name, const TensorView& tensor, ShardedWriter* writer) {
    if (const SavedModule* saved = adapter_.find_saved(name)) {
      const std::vector<float> values = host_floats(saved->value);
      std::vector<uint8_t> converted(tensor.bytes);
      from_floats(values.data(), tensor.count(), tensor.dtype, converted.data());
      writer->append(converted.data(), converted.size());
      ++merged_;
      return;
    }
    const auto found = modules_.find(name);
    if (found == modules_.end()) {
      writer->append(tensor.data, tensor.bytes);
      return;
    }
    merge_linear(*found->second, tensor, writer);
    ++merged_;
  }

  static void merge_linear(const LoraModule& module, const TensorView& tensor,
                           ShardedWriter* writer) {
    const std::vector<float> a = host_floats(module.a), b = host_floats(module.b);
    const size_t row_bytes = static_cast<size_t>(module.in) * dtype_size(tensor.dtype);
    std::vector<float> weight(static_cast<size_t>(module.in)), delta(weight.size());
    std::vector<uint8_t> converted(row_bytes);
    for (int64_t row = 0; row < module.out; ++row) {
      to_floats(tensor.data + static_cast<size_t>(row) * row_bytes, tensor.dtype, module.in,
                weight.data());
      delta_row(module, a, b, row, delta.data());
      for (size_t i = 0; i < weight.size(); ++i) weight[i] += delta[i];
      from_floats(weight.data(), module.in, tensor.dtype, converted.data());
      writer->append(converted.data(), row_bytes);
    }
  }

  const AdapterImpl& adapter_;
  std::map<std::string, const LoraModule*> modules_;
  std::vector<Source> sources_;
  bool untied_ = false;
  int64_t merged_ = 0;
};

void write_companions(const std::string& from, const std::string& to, bool untied) {
  const std::string config_path = join_path(from, "config.json");
  std::string config = read_text_file(config_path);
  if (untied) {
    Json json = Json::parse(config, config_path);
    json.set("tie_word_embeddings", Json(false));
    config = json.dump(2) + "\n";
  }
  write_text_file(join_path(to, "config.json"), config);
  for (const char* name : kCompanions)
    if (file_exists(join_path(from, name))) copy_file(join_path(from, name), join_path(to, name));
}

// Logits of the base with its adapter against those of the written folder, over a fixed input that
// visits the vocabulary in large steps.
void compare_logits(const std::shared_ptr<ModelImpl>& model,
                    const std::shared_ptr<AdapterImpl>& adapter, const std::string& folder,
                    MergeReport* report) {
  const std::shared_ptr<ModelImpl> merged =
      load_model(model->device, folder, model->options, {}, nullptr);
  const int64_t count = std::min<int64_t>(16, model->config.max_positions);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>((i * 7919 + 1) % model->config.vocabulary));
  const std::vector<float> expected = forward_logits(model, adapter, ids.data(), count);
  const std::vector<float> actual = forward_logits(merged, nullptr, ids.data(), count);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(expected[i]) || !std::isfinite(actual[i]))
      throw Error(ErrorCode::kNotFinite, "the merged model's logits aren't finite", folder,
                  "the merged weights overflow the base model's type, or the adapter is damaged");
    const double difference = static_cast<double>(expected[i]) - static_cast<double>(actual[i]);
    report->max_logit_difference = std::max(report->max_logit_difference, std::abs(difference));
    report->max_logit = std::max(report->max_logit, std::abs(static_cast<double>(expected[i])));
  }
}

}  // namespace

MergeReport merge_adapter(std::shared_ptr<Device> device, const std::string& model_folder,
                          const std::string& adapter_folder, const std::string& output_folder,
                          const Progress& progress) {
  if (same_folder(model_folder, output_folder))
    throw Error(ErrorCode::kInvalidArgument, "the output is the base model's own folder",
                output_folder, "choose another folder");
  const ShardedTensors tensors(model_folder);
  for (const ShardedTensors::Entry& entry : tensors.entries())
    if (is_prequantized(tensors, entry.tensor->name))
      throw Error(ErrorCode::kUnsupported, "a quantized folder can't be merged into", model_folder,
                  "merge into the original weights that it was quantized from");
  const std::shared_ptr<ModelImpl> model =
      load_model(std::move(device), model_folder, ModelOptions{}, {}, nullptr);
  const std::shared_ptr<AdapterImpl> adapter = load_adapter(model, adapter_folder);

  OutputFolder output(output_folder);
  Merger merger(tensors, *adapter);
  merger.write(output.path(), progress);
  write_companions(model_folder, output.path(), merger.untied());
  MergeReport report;
  report.tensors_merged = merger.merged();
  const auto expected = static_cast<int64_t>(adapter->modules.size() + adapter->saved.size());
  if (report.tensors_merged != expected)
    throw Error(ErrorCode::kInternal, "not every adapted tensor was merged", adapter_folder);
  compare_logits(model, adapter, output.path(), &report);
  output.commit(weight_files(output_folder));
  return report;
}

}  // namespace lowrank
