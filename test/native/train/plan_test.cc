// The plan is what is allocated, and an estimate needs no weights to say the same.
#include <cstdlib>
#include <new>

#include "core/error.h"
#include "support/test.h"
#include "train/counting_backend.h"
#include "train/plan.h"
#include "train/tiny_model.h"

namespace {
std::atomic<int64_t> heap_allocations{0};

void* counted_allocation(std::size_t bytes, std::size_t alignment) {
  ++heap_allocations;
  void* pointer = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!pointer) throw std::bad_alloc();
  return pointer;
}
}  // namespace

// Every allocation of this program is counted.
void* operator new(std::size_t bytes) { return counted_allocation(bytes + !bytes, 16); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted_allocation(bytes + !bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* pointer) noexcept { std::free(pointer); }
void operator delete(void* pointer, std::size_t) noexcept { std::free(pointer); }
void operator delete(void* pointer, std::align_val_t) noexcept { std::free(pointer); }
void operator delete(void* pointer, std::size_t, std::align_val_t) noexcept { std::free(pointer); }

namespace lowrank {
namespace {

using namespace test;

uint64_t item(const PlanReport& plan, const std::string& name) {
  for (const PlanItem& entry : plan.items)
    if (entry.name == name) return entry.bytes;
  report_failure(__FILE__, __LINE__, "no item " + name);
  return 0;
}

struct Setup {
  const char* name;
  ModelOptions model;
  std::optional<LoraOptions> lora;
  SessionOptions session;
  std::string config;
};

std::vector<Setup> setups() {
  LoraOptions all, few, saved;
  all.r = 8;
  all.target_modules = {"all-linear"};
  few.r = 3;
  few.target_pattern = ".*layers\\.2.*(q|v)_proj";
  few.lora_dropout = 0.1;
  saved.target_modules = {"q_proj"};
  saved.modules_to_save = {"lm_head", "embed_tokens"};
  std::vector<Setup> setups;
  const auto add = [&](const char* name, std::optional<LoraOptions> lora) -> Setup& {
    Setup setup{name, {}, lora, session_options(48), tiny_config()};
    setup.model.trainable = !lora;
    setups.push_back(setup);
    return setups.back();
  };
  add("lora", all);
  add("lora on the upper layer", few).session.max_labels = 7;
  add("lora with a trained head", saved);
  add("lora bf16", all).model.compute = DType::kBF16;
  add("qlora", all).model.quantization = Quantization::kNf4;
  add("qlora double", all).model.quantization = Quantization::kNf4Double;
  add("full", {});
  add("full tied", {}).config = tiny_config(2, true);
  add("full 8 bit", {}).session.optimizer = Optimizer::kAdamW8Bit;
  const size_t count = setups.size();
  for (size_t i = 0; i < count; ++i) {
    setups.push_back(setups[i]);
    setups.back().session.checkpointing = Checkpointing::kBlock;
    setups.push_back(setups[i]);
    setups.back().session.checkpointing = Checkpointing::kNone;
  }
  return setups;
}

void check_plan(const Setup& setup) {
  const auto device = CountingBackend::open();
  const int64_t empty = CountingBackend::held_bytes();
  const auto held = [&] { return static_cast<uint64_t>(CountingBackend::held_bytes() - empty); };
  const auto model = tiny_model(device, setup.model, setup.config);
  const uint64_t weights = held();
  const auto adapter = setup.lora ? Adapter::create(*model, *setup.lora, 5) : nullptr;
  const uint64_t adapter_held = held() - weights;
  Session session(model, adapter, setup.session);
  const PlanReport plan = session.plan();
  CHECK_EQ(item(plan, "weights"), weights);
  CHECK_EQ(item(plan, "adapter"), adapter_held);
  CHECK_EQ(item(plan, "device"), device->info().fixed_bytes);
  CHECK_EQ(plan.total_bytes, held() + device->info().fixed_bytes);

  // Nothing is allocated by a step or an evaluation, on the device or the heap.
  const Documents a({20, 9}), b({13}, 2);
  Documents short_labels({4, 2}, 3);
  const bool few = setup.session.max_labels > 0;
  const std::vector<MicroBatch> batches = few ? std::vector<MicroBatch>{short_labels.batch()}
                                              : std::vector<MicroBatch>{a.batch(), b.batch()};
  StepOptions options;
  options.learning_rate = 1e-3f;
  options.step = 1;
  session.step(batches, options);
  session.evaluate(batches);
  const int64_t device_before = CountingBackend::allocations();
  const int64_t heap_before = heap_allocations;
  options.step = 2;
  session.step(batches, options);
  session.evaluate(batches);
  const int64_t heap_after = heap_allocations;
  // The scalar reference keeps rows on the heap; no other kernel does.
  if (std::string(device->info().isa) != "reference") CHECK_EQ(heap_after - heap_before, 0);
  CHECK_EQ(CountingBackend::allocations() - device_before, 0);

  const EstimateOptions estimate_options{setup.model, setup.lora, setup.session};
  const PlanReport estimated = estimate(device, setup.config, estimate_options);
  CHECK_EQ(estimated.items.size(), plan.items.size());
  for (const PlanItem& entry : plan.items) CHECK_EQ(item(estimated, entry.name), entry.bytes);
  CHECK_EQ(estimated.total_bytes, plan.total_bytes);
  CHECK_EQ(estimated.recomputed_layers, plan.recomputed_layers);
  CHECK_EQ(estimated.layers, static_cast<int32_t>(model->info().layers));
}

TEST(an_estimate_knows_weights_that_are_stored_quantized) {
  const auto device = cpu();
  EstimateOptions options;
  options.lora = LoraOptions{};
  options.lora->target_modules = {"all-linear"};
  options.session = session_options();
  const auto quantized = [](const std::string& fields) {
    std::string config = tiny_config();
    return config.insert(1, "\"quantization_config\":{" + fields + "},");
  };
  const std::string nf4 =
      R"("quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"nf4")";
  const std::string nested = nf4 + R"(,"bnb_4bit_use_double_quant":true)";
  for (const bool is_nested : {false, true}) {
    const std::string config = quantized(is_nested ? nested : nf4);
    const PlanReport stored = estimate(device, config, options);
    EstimateOptions explicit_options = options;
    explicit_options.model.quantization = is_nested ? Quantization::kNf4Double : Quantization::kNf4;
    const PlanReport expected = estimate(device, tiny_config(), explicit_options);
    CHECK_EQ(stored.total_bytes, expected.total_bytes);
    CHECK_EQ(item(stored, "weights"), item(expected, "weights"));
    CHECK(stored.total_bytes < estimate(device, tiny_config(), options).total_bytes);
    // What the folder holds is what is used, whatever was asked for.
    explicit_options.model.quantization = Quantization::kNone;
    CHECK_EQ(estimate(device, config, explicit_options).total_bytes, expected.total_bytes);
  }
  EstimateOptions full = options;
  full.lora.reset();
  CHECK_ERROR(estimate(device, quantized(nf4), full), ErrorCode::kInvalidArgument,
              "can't be trained");
  const std::string fp4 =
      R"("quant_method":"bitsandbytes","load_in_4bit":true,"bnb_4bit_quant_type":"fp4")";
  CHECK_ERROR(estimate(device, quantized(fp4), options), ErrorCode::kUnsupported, "in fp4");
  CHECK_ERROR(estimate(device, quantized(R"("quant_method":"gptq")"), options),
              ErrorCode::kUnsupported, "gptq");
}

TEST(a_plan_is_what_is_allocated) {
  for (const Setup& setup : setups()) {
    const int64_t before = heap_allocations;
    check_plan(setup);
    CHECK(heap_allocations > before);  // the count counts
  }
}

TEST(auto_keeps_as_many_layers_as_fit) {
  const auto device = cpu();
  EstimateOptions options;
  options.lora.emplace();
  options.lora->target_modules = {"all-linear"};
  options.session = session_options(64);
  const auto plan_with = [&](Checkpointing checkpointing, uint64_t budget) {
    options.session.checkpointing = checkpointing;
    options.session.memory_budget = budget;
    return estimate(device, tiny_config(8), options);
  };
  const uint64_t least = plan_with(Checkpointing::kBlock, 0).total_bytes;
  const uint64_t most = plan_with(Checkpointing::kNone, 0).total_bytes;
  CHECK_EQ((most - least) % 7, 0u);  // eight blocks, one set of saved values is always there
  const uint64_t set = (most - least) / 7;
  for (uint64_t kept = 0; kept <= 7; ++kept) {
    const PlanReport exact = plan_with(Checkpointing::kAuto, least + kept * set);
    CHECK_EQ(exact.recomputed_layers, static_cast<int32_t>(7 - kept));
    CHECK_EQ(exact.total_bytes, least + kept * set);
    if (kept > 0)
      CHECK_EQ(plan_with(Checkpointing::kAuto, least + kept * set - 1).recomputed_layers,
               static_cast<int32_t>(8 - kept));
  }
  CHECK_EQ(plan_with(Checkpointing::kAuto, most * 2).recomputed_layers, 0);
  // Too little for any plan: the smallest is reported.
  CHECK_EQ(plan_with(Checkpointing::kAuto, 1).total_bytes, least);
}

TEST(states_of_8_bits_are_smaller) {
  const auto device = cpu();
  EstimateOptions options;
  options.session = session_options(16);
  const PlanReport wide = estimate(device, tiny_config(), options);
  options.session.optimizer = Optimizer::kAdamW8Bit;
  const PlanReport narrow = estimate(device, tiny_config(), options);
  CHECK_EQ(item(wide, "optimizer"), 2 * item(wide, "gradients"));
  // k_proj and v_proj (2,048 values) and norms keep f32 states.
  CHECK(item(narrow, "optimizer") < item(wide, "optimizer") * 2 / 5);
  options.model.quantization = Quantization::kNf4;
  CHECK_ERROR(estimate(device, tiny_config(), options), ErrorCode::kInvalidArgument,
              "quantized weights");
}

TEST(an_estimate_of_a_large_model_is_immediate) {
  const std::string config =
      R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":128256,)"
      R"("hidden_size":4096,"intermediate_size":14336,"num_attention_heads":32,)"
      R"("num_key_value_heads":8,"num_hidden_layers":32,"max_position_embeddings":131072,)"
      R"("rms_norm_eps":1e-5,"rope_theta":500000.0,"hidden_act":"silu",)"
      R"("torch_dtype":"bfloat16","tie_word_embeddings":false})";
  const auto device = cpu();
  EstimateOptions options;
  options.lora.emplace();
  options.lora->r = 16;
  options.lora->target_modules = {"all-linear"};
  options.model.compute = DType::kBF16;
  options.model.quantization = Quantization::kNf4Double;
  options.session = session_options(512);
  options.session.checkpointing = Checkpointing::kBlock;
  const PlanReport plan = estimate(device, config, options);
  // 32 layers of 218,103,808 values in 4.127 bits, embedding and head in bf16, norms in f32.
  const double linear = 32.0 * 218103808, other = 2.0 * 128256 * 4096 * 2;
  CHECK_NEAR(static_cast<double>(item(plan, "weights")), linear * 4.127 / 8 + other + 65 * 16384,
             2e-4 * linear);
  CHECK_EQ(item(plan, "adapter"), 41943040u * 4);
  CHECK_EQ(plan.recomputed_layers, 31);
}

}  // namespace
}  // namespace lowrank
