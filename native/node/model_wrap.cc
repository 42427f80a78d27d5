#include "node/model_wrap.h"

#include "node/abort_flag_wrap.h"
#include "node/adapter_wrap.h"
#include "node/generator_wrap.h"
#include "node/progress.h"
#include "node/results.h"
#include "node/session_wrap.h"

namespace lowrank::node {

namespace {

// Runs `make` (Device -> Model) on a thread of its own, which then belongs to the model.
template <typename Make>
Napi::Value make_model(Napi::Env env, DeviceRequest device, AbortState abort,
                       std::shared_ptr<ProgressChannel> channel, Make make) {
  const std::shared_ptr<SerialWorker> worker = Environment::of(env).new_worker();
  const Napi::Value promise = run_async(
      env, *worker, std::move(abort),
      [device = std::move(device), make = std::move(make)](std::atomic<bool>& aborted) {
        auto object = std::make_shared<ModelObject>();
        object->device = device.open();
        object->model = make(object->device, aborted);
        object->info = object->model->info();
        return object;
      },
      [worker, channel](Napi::Env now, std::shared_ptr<ModelObject> object) -> napi_value {
        const auto bytes = static_cast<int64_t>(object->info.weight_bytes);
        return ModelWrap::wrap(now, std::make_shared<Handle>(now, ModelWrap::kName, worker, nullptr,
                                                             std::move(object), bytes));
      });
  return promise;
}

}  // namespace

Napi::Function ModelWrap::define(Napi::Env env) {
  return DefineClass(
      env, "NativeModel",
      {InstanceMethod<&ModelWrap::info>("info"), InstanceMethod<&ModelWrap::save>("save"),
       InstanceMethod<&ModelWrap::take_profile>("takeProfile"),
       InstanceMethod<&ModelWrap::create_adapter>("createAdapter"),
       InstanceMethod<&ModelWrap::load_adapter>("loadAdapter"),
       InstanceMethod<&ModelWrap::create_session>("createSession"),
       InstanceMethod<&ModelWrap::create_generator>("createGenerator"),
       InstanceMethod<&ModelWrap::forward_logits>("forwardLogits"),
       InstanceMethod("dispose", &ModelWrap::dispose)});
}

Napi::Value ModelWrap::load(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    auto channel = ProgressChannel::open(info[3]);
    auto work = [folder = read_text(info[1], "folder"),
                 options = read_model_options(OptionsReader(info[2], "options")),
                 report = ProgressChannel::reporter(channel)](std::shared_ptr<Device> device,
                                                              std::atomic<bool>& abort) {
      return Model::load(std::move(device), folder, options, report, &abort);
    };
    return make_model(info.Env(), read_device(info[0]), AbortFlagWrap::read(info[4]), channel,
                      std::move(work));
  });
}

Napi::Value ModelWrap::create(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    auto work = [config = read_text(info[1], "configJson"),
                 options = read_model_options(OptionsReader(info[2], "options")),
                 seed = read_seed(info[3])](std::shared_ptr<Device> device, std::atomic<bool>&) {
      return Model::create(std::move(device), config, options, seed);
    };
    return make_model(info.Env(), read_device(info[0]), new_abort_state(), nullptr,
                      std::move(work));
  });
}

Napi::Value ModelWrap::info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] { return to_js(info.Env(), handle()->get<ModelObject>()->info); });
}

Napi::Value ModelWrap::save(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<ModelObject>(), folder = read_text(info[0], "folder"),
         dtype = read_dtype(info[1], "dtype")](std::atomic<bool>&) {
          object->model->save(folder, dtype);
        },
        resolve_undefined());
  });
}

Napi::Value ModelWrap::take_profile(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<ModelObject>()](std::atomic<bool>&) {
          return lowrank::take_profile(*object->device);
        },
        [](Napi::Env env, const std::vector<ProfileRow>& rows) -> napi_value {
          return to_js(env, rows);
        });
  });
}

Napi::Value ModelWrap::create_adapter(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<ModelObject>(),
         options = read_lora_options(OptionsReader(info[0], "adapter options")),
         seed = read_seed(info[1])](std::atomic<bool>&) {
          return std::make_shared<AdapterObject>(Adapter::create(*object->model, options, seed));
        },
        [model = handle()](Napi::Env env, std::shared_ptr<AdapterObject> adapter) -> napi_value {
          return AdapterWrap::wrap_new(env, model, std::move(adapter));
        });
  });
}

Napi::Value ModelWrap::load_adapter(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<ModelObject>(),
         folder = read_text(info[0], "folder")](std::atomic<bool>&) {
          return std::make_shared<AdapterObject>(Adapter::load(*object->model, folder));
        },
        [model = handle()](Napi::Env env, std::shared_ptr<AdapterObject> adapter) -> napi_value {
          return AdapterWrap::wrap_new(env, model, std::move(adapter));
        });
  });
}

Napi::Value ModelWrap::create_session(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<ModelObject>(), adapter = AdapterWrap::read(info[0], *handle()),
         options =
             read_session_options(OptionsReader(info[1], "session options"))](std::atomic<bool>&) {
          return std::make_shared<SessionObject>(object->model, adapter, options);
        },
        [model = handle()](Napi::Env env, std::shared_ptr<SessionObject> session) -> napi_value {
          return SessionWrap::wrap_new(env, model, std::move(session));
        });
  });
}

Napi::Value ModelWrap::create_generator(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    const auto capacity = static_cast<int32_t>(read_integer(info[1], 1, 1 << 30, "capacity"));
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<ModelObject>(), adapter = AdapterWrap::read(info[0], *handle()),
         capacity](std::atomic<bool>&) {
          return std::make_shared<GeneratorObject>(object->model, adapter, capacity);
        },
        [model = handle()](Napi::Env env, std::shared_ptr<GeneratorObject> made) -> napi_value {
          return GeneratorWrap::wrap_new(env, model, std::move(made));
        });
  });
}

Napi::Value ModelWrap::forward_logits(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object = handle()->get<ModelObject>(), adapter = AdapterWrap::read(info[0], *handle()),
         ids = copy_int32(info[1], "ids")](std::atomic<bool>&) {
          return lowrank::forward_logits(object->model, adapter, ids.data(),
                                         static_cast<int64_t>(ids.size()));
        },
        [](Napi::Env env, const std::vector<float>& logits) -> napi_value {
          return to_js(env, logits);
        });
  });
}

}  // namespace lowrank::node
