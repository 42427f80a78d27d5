#include "node/session_wrap.h"

#include "node/abort_flag_wrap.h"
#include "node/options.h"
#include "node/results.h"

namespace lowrank::node {

namespace {

struct Evaluation {
  StepResult result;
  std::vector<float> per_token;  // empty unless asked for
};

struct Gradients {
  StepResult result;
  std::map<std::string, std::vector<float>> tensors;
};

napi_value evaluation_to_js(Napi::Env env, const Evaluation& evaluation, bool per_token) {
  Napi::Object object = to_js(env, evaluation.result);
  if (per_token) object.Set("perToken", to_js(env, evaluation.per_token));
  return object;
}

napi_value gradients_to_js(Napi::Env env, const Gradients& gradients) {
  Napi::Object tensors = Napi::Object::New(env);
  for (const auto& [name, values] : gradients.tensors) tensors.Set(name, to_js(env, values));
  Napi::Object object = Napi::Object::New(env);
  object.Set("result", to_js(env, gradients.result));
  object.Set("gradients", tensors);
  return object;
}

}  // namespace

Napi::Function SessionWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeSession",
                     {InstanceMethod<&SessionWrap::step>("step"),
                      InstanceMethod<&SessionWrap::evaluate>("evaluate"),
                      InstanceMethod<&SessionWrap::gradients>("gradients"),
                      InstanceMethod<&SessionWrap::plan>("plan"),
                      InstanceMethod<&SessionWrap::save_state>("saveState"),
                      InstanceMethod<&SessionWrap::load_state>("loadState"),
                      InstanceMethod("dispose", &SessionWrap::dispose)});
}

Napi::Object SessionWrap::wrap_new(Napi::Env env, const std::shared_ptr<Handle>& model,
                                   std::shared_ptr<SessionObject> session) {
  uint64_t bytes = 0;  // weights and adapter are counted with their own objects
  for (const PlanItem& item : session->plan.items) {
    if (item.name != "weights" && item.name != "adapter") bytes += item.bytes;
  }
  return wrap(env, std::make_shared<Handle>(env, kName, model->worker(), model, std::move(session),
                                            static_cast<int64_t>(bytes)));
}

Napi::Value SessionWrap::step(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), AbortFlagWrap::read(info[2]),
        [object = handle()->get<SessionObject>(), batches = OwnedBatches(info[0]),
         options =
             read_step_options(OptionsReader(info[1], "step options"))](std::atomic<bool>& abort) {
          return object->session.step(batches.views(), options, &abort);
        },
        [](Napi::Env env, const StepResult& result) -> napi_value { return to_js(env, result); });
  });
}

Napi::Value SessionWrap::evaluate(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    OptionsReader options(info[1], "evaluate options");
    const bool per_token = options.boolean("perToken");
    options.finish();
    return run_async(
        info.Env(), worker(), AbortFlagWrap::read(info[2]),
        [object = handle()->get<SessionObject>(), batches = OwnedBatches(info[0]),
         per_token](std::atomic<bool>& abort) {
          Evaluation evaluation;
          if (per_token) evaluation.per_token.resize(static_cast<size_t>(batches.tokens()));
          evaluation.result = object->session.evaluate(
              batches.views(), per_token ? evaluation.per_token.data() : nullptr, &abort);
          return evaluation;
        },
        [per_token](Napi::Env env, const Evaluation& evaluation) {
          return evaluation_to_js(env, evaluation, per_token);
        });
  });
}

Napi::Value SessionWrap::gradients(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    const int64_t step = read_integer(info[1], 1, int64_t{1} << 53, "step");
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<SessionObject>(), batches = OwnedBatches(info[0]),
         step](std::atomic<bool>&) {
          Gradients gradients;
          gradients.result = object->session.gradients(batches.views(), step, &gradients.tensors);
          return gradients;
        },
        gradients_to_js);
  });
}

Napi::Value SessionWrap::plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(),
                 [&] { return to_js(info.Env(), handle()->get<SessionObject>()->plan); });
}

Napi::Value SessionWrap::save_state(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<SessionObject>(), file = read_text(info[0], "file")](
            std::atomic<bool>&) { object->session.save_state(file); },
        resolve_undefined());
  });
}

Napi::Value SessionWrap::load_state(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<SessionObject>(), file = read_text(info[0], "file")](
            std::atomic<bool>&) { object->session.load_state(file); },
        resolve_undefined());
  });
}

}  // namespace lowrank::node
