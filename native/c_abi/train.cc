// Sessions, estimates and generators behind lowrank.h.
#include "c_abi/bridge.h"

using namespace lowrank;
using namespace lowrank::c_abi;

namespace {

const lowrank_sampling_options kSamplingDefaults = {sizeof(lowrank_sampling_options), 0, 1, 0, 0};

lowrank_session_options session_defaults() {
  const SessionOptions from;
  lowrank_session_options options = {};
  options.struct_bytes = sizeof options;
  options.optimizer = LOWRANK_ADAMW;
  options.checkpointing = LOWRANK_CHECKPOINTING_AUTO;
  options.beta1 = from.beta1;
  options.beta2 = from.beta2;
  options.eps = from.eps;
  options.weight_decay = from.weight_decay;
  options.max_grad_norm = from.max_grad_norm;
  options.seed = from.seed;
  return options;
}

SessionOptions session_options(const lowrank_session_options* given) {
  const lowrank_session_options from = read_struct(given, session_defaults(), "session options");
  if (from.optimizer < LOWRANK_ADAMW || from.optimizer > LOWRANK_ADAMW_8BIT)
    throw Error(ErrorCode::kInvalidArgument, "there is no such optimizer", "optimizer");
  if (from.checkpointing < LOWRANK_CHECKPOINTING_NONE ||
      from.checkpointing > LOWRANK_CHECKPOINTING_AUTO)
    throw Error(ErrorCode::kInvalidArgument, "there is no such checkpointing", "checkpointing");
  SessionOptions options;
  options.optimizer = static_cast<Optimizer>(from.optimizer);
  options.checkpointing = static_cast<Checkpointing>(from.checkpointing);
  options.beta1 = from.beta1;
  options.beta2 = from.beta2;
  options.eps = from.eps;
  options.weight_decay = from.weight_decay;
  options.max_grad_norm = from.max_grad_norm;
  options.seed = from.seed;
  options.max_tokens = from.max_tokens;
  options.max_labels = from.max_labels;
  options.memory_budget = from.memory_budget;
  return options;
}

// The stride between micro-batches is the caller's struct_bytes, which the first one tells.
std::vector<MicroBatch> micro_batches(const lowrank_micro_batch* batches, size_t count) {
  std::vector<MicroBatch> out;
  if (count == 0) return out;
  const auto* bytes = reinterpret_cast<const char*>(require(batches, "batches"));
  const size_t stride = batches->struct_bytes;
  for (size_t i = 0; i < count; ++i) {
    const auto* given = reinterpret_cast<const lowrank_micro_batch*>(bytes + i * stride);
    if (given->struct_bytes != stride)
      throw Error(ErrorCode::kInvalidArgument, "struct_bytes isn't set",
                  "micro-batch " + std::to_string(i), "set struct_bytes to sizeof");
    const lowrank_micro_batch from = read_struct(given, lowrank_micro_batch{}, "micro-batch");
    MicroBatch batch;
    batch.input_ids = from.input_ids;
    batch.labels = from.labels;
    batch.weights = from.weights;
    batch.tokens = from.tokens;
    batch.document_offsets = from.document_offsets;
    batch.documents = from.documents;
    out.push_back(batch);
  }
  return out;
}

void write_result(const StepResult& from, lowrank_step_result* result) {
  lowrank_step_result to = {};
  to.loss = from.loss;
  to.grad_norm = from.grad_norm;
  to.weight = from.weight;
  to.seconds = from.seconds;
  to.tokens = from.tokens;
  to.label_tokens = from.label_tokens;
  to.correct = from.correct;
  to.aborted = from.aborted;
  write_struct(result, to, "result");
}

void write_plan(const PlanReport& from, lowrank_plan* plan) {
  lowrank_plan to = {};
  to.total_bytes = from.total_bytes;
  to.recomputed_layers = from.recomputed_layers;
  to.layers = from.layers;
  const std::pair<const char*, uint64_t*> fields[] = {
      {"weights", &to.weights},     {"adapter", &to.adapter},         {"gradients", &to.gradients},
      {"optimizer", &to.optimizer}, {"activations", &to.activations}, {"workspace", &to.workspace},
      {"device", &to.device}};
  for (const PlanItem& item : from.items)
    for (const auto& [name, field] : fields)
      if (item.name == name) *field = item.bytes;
  write_struct(plan, to, "plan");
}

}  // namespace

void lowrank_session_options_init(lowrank_session_options* options) {
  if (options) *options = session_defaults();
}
void lowrank_sampling_options_init(lowrank_sampling_options* options) {
  if (options) *options = kSamplingDefaults;
}

lowrank_status lowrank_session_create(const lowrank_model* model, const lowrank_adapter* adapter,
                                      const lowrank_session_options* options,
                                      lowrank_session** out) {
  return guarded([&] {
    require(out, "out");
    *out = new lowrank_session{
        Session(require(model, "model")->model, adapter_of(adapter), session_options(options))};
  });
}

lowrank_status lowrank_session_step(lowrank_session* session, const lowrank_micro_batch* batches,
                                    size_t count, float learning_rate, int64_t step,
                                    const lowrank_abort* abort, lowrank_step_result* result) {
  return guarded([&] {
    require_output(result, "result");
    StepOptions options;
    options.learning_rate = learning_rate;
    options.step = step;
    write_result(require(session, "session")
                     ->session.step(micro_batches(batches, count), options, flag_of(abort)),
                 result);
  });
}

lowrank_status lowrank_session_evaluate(lowrank_session* session,
                                        const lowrank_micro_batch* batches, size_t count,
                                        float* per_token, const lowrank_abort* abort,
                                        lowrank_step_result* result) {
  return guarded([&] {
    require_output(result, "result");
    write_result(require(session, "session")
                     ->session.evaluate(micro_batches(batches, count), per_token, flag_of(abort)),
                 result);
  });
}

lowrank_status lowrank_session_get_plan(const lowrank_session* session, lowrank_plan* plan) {
  return guarded([&] { write_plan(require(session, "session")->session.plan(), plan); });
}

lowrank_status lowrank_session_save_state(const lowrank_session* session, const char* file) {
  return guarded([&] { require(session, "session")->session.save_state(require(file, "file")); });
}

lowrank_status lowrank_session_load_state(lowrank_session* session, const char* file) {
  return guarded([&] { require(session, "session")->session.load_state(require(file, "file")); });
}
void lowrank_session_free(lowrank_session* session) { delete session; }

lowrank_status lowrank_estimate(lowrank_device* device, const char* config_json,
                                const lowrank_model_options* model,
                                const lowrank_lora_options* lora,
                                const lowrank_session_options* session, lowrank_plan* plan) {
  return guarded([&] {
    require_output(plan, "plan");
    EstimateOptions options;
    options.model = model_options(model);
    if (lora) options.lora = lora_options(lora);
    options.session = session_options(session);
    write_plan(
        estimate(require(device, "device")->device, require(config_json, "config_json"), options),
        plan);
  });
}

lowrank_status lowrank_generator_create(const lowrank_model* model, const lowrank_adapter* adapter,
                                        int32_t capacity, lowrank_generator** out) {
  return guarded([&] {
    require(out, "out");
    *out = new lowrank_generator{
        Generator(require(model, "model")->model, adapter_of(adapter), capacity)};
  });
}

lowrank_status lowrank_generator_prefill(lowrank_generator* generator, const int32_t* ids,
                                         size_t count, const lowrank_abort* abort) {
  return guarded([&] {
    require(generator, "generator")
        ->generator.prefill(ids, static_cast<int64_t>(count), flag_of(abort));
  });
}

lowrank_status lowrank_generator_next(lowrank_generator* generator,
                                      const lowrank_sampling_options* options, int32_t* token) {
  return guarded([&] {
    require(token, "token");
    const lowrank_sampling_options from =
        read_struct(options, kSamplingDefaults, "sampling options");
    SamplingOptions sampling;
    sampling.temperature = from.temperature;
    sampling.top_k = from.top_k;
    sampling.top_p = from.top_p;
    sampling.seed = from.seed;
    *token = require(generator, "generator")->generator.next(sampling);
  });
}

lowrank_status lowrank_generator_logits(lowrank_generator* generator, float* logits, size_t count) {
  return guarded([&] {
    require(logits, "logits");
    const std::vector<float>& values = require(generator, "generator")->generator.logits();
    if (count != values.size())
      throw Error(
          ErrorCode::kInvalidArgument,
          "there are " + std::to_string(values.size()) + " logits, not " + std::to_string(count),
          "count");
    std::copy(values.begin(), values.end(), logits);
  });
}
void lowrank_generator_free(lowrank_generator* generator) { delete generator; }
