#include "node/generator_wrap.h"

#include "node/abort_flag_wrap.h"
#include "node/options.h"
#include "node/results.h"

namespace lowrank::node {

Napi::Function GeneratorWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeGenerator",
                     {InstanceMethod<&GeneratorWrap::prefill>("prefill"),
                      InstanceMethod<&GeneratorWrap::next>("next"),
                      InstanceMethod<&GeneratorWrap::logits>("logits"),
                      InstanceMethod<&GeneratorWrap::length>("length"),
                      InstanceMethod<&GeneratorWrap::cache_bytes>("cacheBytes"),
                      InstanceMethod("dispose", &GeneratorWrap::dispose)});
}

Napi::Object GeneratorWrap::wrap_new(Napi::Env env, const std::shared_ptr<Handle>& model,
                                     std::shared_ptr<GeneratorObject> generator) {
  const auto bytes = static_cast<int64_t>(generator->cache_bytes);
  return wrap(env, std::make_shared<Handle>(env, kName, model->worker(), model,
                                            std::move(generator), bytes));
}

Napi::Value GeneratorWrap::prefill(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    auto object = handle()->get<GeneratorObject>();
    return run_async(
        info.Env(), worker(), AbortFlagWrap::read(info[1]),
        [object, ids = copy_int32(info[0], "ids")](std::atomic<bool>& abort) {
          object->generator.prefill(ids.data(), static_cast<int64_t>(ids.size()), &abort);
          object->length = object->generator.length();
        },
        [use = object->uses](Napi::Env env) -> napi_value { return env.Undefined(); });
  });
}

Napi::Value GeneratorWrap::next(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    auto object = handle()->get<GeneratorObject>();
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object, options = read_sampling_options(OptionsReader(info[0], "sampling options"))](
            std::atomic<bool>&) {
          const int32_t token = object->generator.next(options);
          object->length = object->generator.length();
          return token;
        },
        [use = object->uses](Napi::Env env, int32_t token) -> napi_value {
          return Napi::Number::New(env, token);
        });
  });
}

Napi::Value GeneratorWrap::logits(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto object = handle()->get<GeneratorObject>();
    if (object->uses.use_count() > 1) {
      throw_invalid("the generator is at work", "logits()", "await prefill() and next() first");
    }
    return to_js(info.Env(), object->generator.logits());
  });
}

Napi::Value GeneratorWrap::length(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto object = handle()->get<GeneratorObject>();
    return Napi::Number::New(info.Env(), static_cast<double>(object->length.load()));
  });
}

Napi::Value GeneratorWrap::cache_bytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const auto object = handle()->get<GeneratorObject>();
    return Napi::Number::New(info.Env(), static_cast<double>(object->cache_bytes));
  });
}

}  // namespace lowrank::node
