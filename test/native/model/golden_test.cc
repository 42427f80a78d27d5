// Logits, losses and gradients against those of torch, transformers and peft.
#include <algorithm>
#include <map>

#include "model/decoder.h"
#include "support/golden_model.h"
#include "support/test.h"

namespace lowrank::test {
namespace {

constexpr int32_t kMaxLength = 64;  // beyond what the dynamic model was made for

std::shared_ptr<Model> load(const std::shared_ptr<Device>& device, const std::string& name,
                            DType compute, bool trainable = false) {
  ModelOptions options;
  options.compute = compute;
  options.trainable = trainable;
  options.max_length = kMaxLength;
  return Model::load(device, golden_folder(name), options);
}

// Logits [tokens, vocabulary] of a packed row through the blocks that training uses.
std::vector<float> packed_logits(const std::shared_ptr<ModelImpl>& model, const GoldenBatch& row) {
  const ModelConfig& config = model->config;
  const auto tokens = static_cast<int64_t>(row.ids().size());
  StepShape shape;
  shape.tokens = shape.labels = tokens;
  shape.training = false;
  std::vector<Buffer> owned;
  const auto lay_out = [&](const std::vector<BufferSpec>& specs) {
    BufferSet set;
    for (const BufferSpec& spec : specs) {
      owned.emplace_back(model->device, spec.bytes);
      set.add(owned.back().data(), spec.bytes);
    }
    return set;
  };
  const DType compute = model->options.compute;
  const BufferSet saved = lay_out(Decoder::saved_specs(*model->device, config, {}, compute, shape));
  const BufferSet scratch =
      lay_out(Decoder::scratch_specs(*model->device, config, model->options, {}, shape));
  std::vector<int32_t> positions;
  for (size_t d = 0; d + 1 < row.offsets().size(); ++d)
    for (int32_t i = row.offsets()[d]; i < row.offsets()[d + 1]; ++i)
      positions.push_back(i - row.offsets()[d]);
  DecoderBatch batch;
  batch.ids = row.ids().data();
  batch.positions = positions.data();
  batch.document_offsets = row.offsets().data();
  batch.documents = static_cast<int32_t>(row.offsets().size()) - 1;
  batch.tokens = tokens;
  for (size_t d = 0; d + 1 < row.offsets().size(); ++d)
    batch.longest = std::max<int64_t>(batch.longest, row.offsets()[d + 1] - row.offsets()[d]);
  Decoder decoder(model, nullptr, kMaxLength);
  Buffer x(model->device, activation_bytes(*model->device, compute, tokens, config.hidden));
  decoder.embed(batch, x.data());
  for (int32_t l = 0; l < static_cast<int32_t>(config.layers); ++l)
    decoder.block_forward(l, batch, x.data(), x.data(), saved, scratch);
  std::vector<float> logits(static_cast<size_t>(tokens * config.vocabulary));
  decoder.logits(x.data(), 0, tokens, logits.data(), scratch);
  return logits;
}

struct Gradients {
  double loss = 0;
  std::map<std::string, std::vector<float>> values;
};

Gradients gradients(const std::shared_ptr<Model>& model, const std::shared_ptr<Adapter>& adapter,
                    const GoldenBatch& row, Checkpointing checkpointing = Checkpointing::kNone) {
  SessionOptions options;
  options.max_tokens = static_cast<int64_t>(row.ids().size());
  options.checkpointing = checkpointing;
  Session session(model, adapter, options);
  Gradients out;
  out.loss = session.gradients({row.batch()}, 1, &out.values).loss;
  return out;
}

// How far torch's bf16 lies from its f32, relative to the latter's norm.
double torch_distance(const SafetensorsFile& file, const std::string& what) {
  return floats(file.at("bf16.distance." + what))[0];
}

// What a run of torch left under `prefix`, without the loss.
std::map<std::string, std::vector<float>> expected_gradients(const SafetensorsFile& file,
                                                             const std::string& prefix) {
  std::map<std::string, std::vector<float>> out;
  for (const TensorView& tensor : file.tensors())
    if (tensor.name.compare(0, prefix.size(), prefix) == 0 && tensor.name != prefix + "loss")
      out[tensor.name.substr(prefix.size())] = floats(tensor);
  return out;
}

// Every tensor by itself, so that a wrong small one doesn't hide behind a large one.
void check_gradients(const std::string& what, const Gradients& actual, const SafetensorsFile& file,
                     const std::string& prefix, double bound) {
  const auto expected = expected_gradients(file, prefix);
  CHECK(!expected.empty());
  CHECK_EQ(actual.values.size(), expected.size());
  CHECK_NEAR(actual.loss, floats(file.at(prefix + "loss"))[0], bound * std::abs(actual.loss));
  for (const auto& [name, values] : expected) {
    const auto found = actual.values.find(name);
    if (found == actual.values.end() || found->second.size() != values.size()) {
      report_failure(__FILE__, __LINE__, what + ": no gradient of " + name);
      continue;
    }
    const double off = distance(found->second, values);
    if (!(off <= bound))
      report_failure(__FILE__, __LINE__,
                     what + ": gradient of " + name + " is off by " + std::to_string(off) +
                         " of its norm, at most " + std::to_string(bound));
  }
}

// bf16 is compared with torch's f32, around which both this engine's and torch's bf16 lie: all
// gradients together as a bound from the arithmetic says, and no further off than torch's by more
// than kBf16Factor. Few roundings decide about a single small tensor, hence 2 for one alone.
// A distance d leaves a cosine of at least sqrt(1 - d^2) and a norm within a factor of 1 +- d.
constexpr double kBf16Factor = 1.25;

void check_bf16_gradients(const std::string& what, const Gradients& actual,
                          const SafetensorsFile& file, double bound) {
  const auto exact = expected_gradients(file, "f32.lora.");
  CHECK(!exact.empty());
  CHECK_EQ(actual.values.size(), exact.size());
  Distance together;
  for (const auto& [name, values] : exact) {
    together.add(actual.values.at(name), values);
    const double off = distance(actual.values.at(name), values);
    if (!(off <= 2 * torch_distance(file, "lora." + name)))
      report_failure(__FILE__, __LINE__,
                     what + ": bf16 gradient of " + name + " is off by " + std::to_string(off));
  }
  const double allowed = std::min(bound, kBf16Factor * torch_distance(file, "lora"));
  if (!(together.relative() <= allowed))
    report_failure(__FILE__, __LINE__,
                   what + ": bf16 gradients are off by " + std::to_string(together.relative()));
  CHECK_NEAR(actual.loss, floats(file.at("f32.lora.loss"))[0], bound * actual.loss);
}

template <typename Body>
void for_each_model(const Body& body) {
  for (const char* isa : {"reference", static_cast<const char*>(nullptr)}) {
    const std::shared_ptr<Device> device = golden_device(isa);
    for (const std::string& name : golden_models()) {
      const SafetensorsFile file(golden_folder(name) + "/golden.safetensors");
      body(device, name, file, GoldenBatch(file));
    }
  }
}

constexpr int64_t kLongest = 19;

}  // namespace

TEST(logits_of_packed_documents) {
  for_each_model([](const std::shared_ptr<Device>& device, const std::string& name,
                    const SafetensorsFile& file, const GoldenBatch& row) {
    const std::shared_ptr<Model> f32 = load(device, name, DType::kF32);
    const ModelConfig& config = f32->impl()->config;
    const std::vector<float> exact = floats(file.at("f32.logits"));
    const double off = distance(packed_logits(f32->impl(), row), exact);
    if (!(off <= f32_bound(config, kLongest)))
      report_failure(__FILE__, __LINE__, name + ": logits are off by " + std::to_string(off));
    const std::shared_ptr<Model> bf16 = load(device, name, DType::kBF16);
    const double bound =
        std::min(bf16_bound(config, false), kBf16Factor * torch_distance(file, "logits"));
    const double off_bf16 = distance(packed_logits(bf16->impl(), row), exact);
    if (!(off_bf16 <= bound))
      report_failure(__FILE__, __LINE__,
                     name + ": bf16 logits are off by " + std::to_string(off_bf16));
  });
}

TEST(adapter_gradients) {
  for_each_model([](const std::shared_ptr<Device>& device, const std::string& name,
                    const SafetensorsFile& file, const GoldenBatch& row) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const std::shared_ptr<Model> model = load(device, name, compute);
      const auto adapter = Adapter::load(*model, golden_adapter(name));
      const ModelConfig& config = model->impl()->config;
      const Gradients actual = gradients(model, adapter, row);
      if (compute == DType::kF32) {
        check_gradients(name, actual, file, "f32.lora.", f32_bound(config, kLongest));
      } else {
        check_bf16_gradients(name, actual, file, bf16_bound(config, true));
      }
    }
  });
}

TEST(rslora_patterns_and_modules_to_save) {
  const SafetensorsFile file(golden_folder("llama") + "/golden.safetensors");
  for (const char* isa : {"reference", static_cast<const char*>(nullptr)}) {
    const std::shared_ptr<Model> model = load(golden_device(isa), "llama", DType::kF32);
    const auto adapter = Adapter::load(*model, golden_folder("llama") + "/adapter_patterns");
    check_gradients("patterns", gradients(model, adapter, GoldenBatch(file)), file, "f32.patterns.",
                    f32_bound(model->impl()->config, kLongest));
  }
}

// torch is given the masks that core/random.h defines for two micro-batches of one step.
TEST(gradients_with_dropout) {
  const SafetensorsFile file(golden_folder("llama") + "/dropout.safetensors");
  const std::vector<GoldenBatch> rows = {GoldenBatch(file, 0), GoldenBatch(file, 1)};
  for (const char* isa : {"reference", static_cast<const char*>(nullptr)})
    for (const DType compute : {DType::kF32, DType::kBF16})
      for (const Checkpointing checkpointing : {Checkpointing::kNone, Checkpointing::kBlock}) {
        const std::shared_ptr<Model> model = load(golden_device(isa), "llama", compute);
        const auto adapter = Adapter::load(*model, golden_adapter("llama"));
        SessionOptions options;
        options.max_tokens = static_cast<int64_t>(rows[0].ids().size());
        options.checkpointing = checkpointing;
        options.seed = 7;
        const auto run = [&](int64_t step) {
          Session session(model, adapter, options);
          Gradients out;
          out.loss = session.gradients({rows[0].batch(), rows[1].batch()}, step, &out.values).loss;
          return out;
        };
        const ModelConfig& config = model->impl()->config;
        const double bound =
            compute == DType::kF32 ? f32_bound(config, kLongest) : 2 * bf16_bound(config, true);
        const Gradients without = run(3);
        adapter->impl()->options.lora_dropout = 0.25;
        check_gradients("dropout", run(3), file, "f32.lora.", bound);
        const Gradients others = run(4);
        for (const auto& [name, values] : expected_gradients(file, "f32.lora."))
          CHECK(distance(others.values.at(name), values) > 2 * bound &&
                distance(without.values.at(name), values) > 2 * bound);
      }
}

TEST(gradients_of_every_parameter) {
  for_each_model([](const std::shared_ptr<Device>& device, const std::string& name,
                    const SafetensorsFile& file, const GoldenBatch& row) {
    if (!file.find("full.loss")) return;
    const std::shared_ptr<Model> model = load(device, name, DType::kF32, true);
    check_gradients(name, gradients(model, nullptr, row), file, "full.",
                    f32_bound(model->impl()->config, kLongest));
  });
}

TEST(recomputed_blocks_give_the_same_bits) {
  for_each_model([](const std::shared_ptr<Device>& device, const std::string& name,
                    const SafetensorsFile&, const GoldenBatch& row) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      const std::shared_ptr<Model> model = load(device, name, compute);
      const auto adapter = Adapter::load(*model, golden_adapter(name));
      const Gradients kept = gradients(model, adapter, row);
      const Gradients again = gradients(model, adapter, row, Checkpointing::kBlock);
      CHECK_EQ(kept.loss, again.loss);
      CHECK(kept.values == again.values);
    }
  });
}

// A document's logits don't depend on its neighbours, and the cache holds what the pass computes.
TEST(documents_alone_and_decoding_with_a_cache) {
  for_each_model([](const std::shared_ptr<Device>& device, const std::string& name,
                    const SafetensorsFile& file, const GoldenBatch& row) {
    if (name == "llama_dynamic") return;  // its frequencies depend on the longest document
    const std::shared_ptr<Model> model = load(device, name, DType::kF32);
    const auto vocabulary = static_cast<size_t>(model->impl()->config.vocabulary);
    const double bound = f32_bound(model->impl()->config, kLongest);
    const std::vector<float> expected = floats(file.at("f32.logits"));
    for (size_t d = 0; d + 1 < row.offsets().size(); ++d) {
      const int32_t begin = row.offsets()[d], end = row.offsets()[d + 1];
      const std::vector<float> wanted(expected.begin() + begin * vocabulary,
                                      expected.begin() + end * vocabulary);
      CHECK(distance(forward_logits(model, nullptr, row.ids().data() + begin, end - begin),
                     wanted) <= bound);
    }
    std::vector<int32_t> ids(row.ids().begin(), row.ids().begin() + 5);
    Generator generator(model, nullptr, 24);
    generator.prefill(ids.data(), static_cast<int64_t>(ids.size()));
    while (ids.size() < 24) {
      const auto count = static_cast<int64_t>(ids.size());
      const std::vector<float> all = forward_logits(model, nullptr, ids.data(), count);
      CHECK(distance(generator.logits(), {all.end() - vocabulary, all.end()}) <= bound);
      ids.push_back(generator.next({}));
    }
  });
}

}  // namespace lowrank::test
