#include "node/adapter_wrap.h"

#include "node/options_reader.h"
#include "node/results.h"

namespace lowrank::node {

Napi::Function AdapterWrap::define(Napi::Env env) {
  return DefineClass(
      env, "NativeAdapter",
      {InstanceMethod<&AdapterWrap::info>("info"), InstanceMethod<&AdapterWrap::save>("save"),
       InstanceMethod("dispose", &AdapterWrap::dispose)});
}

Napi::Object AdapterWrap::wrap_new(Napi::Env env, const std::shared_ptr<Handle>& model,
                                   std::shared_ptr<AdapterObject> adapter) {
  const int64_t bytes = adapter->info.parameters * static_cast<int64_t>(sizeof(float));
  return wrap(
      env, std::make_shared<Handle>(env, kName, model->worker(), model, std::move(adapter), bytes));
}

std::shared_ptr<Adapter> AdapterWrap::read(const Napi::Value& value, const Handle& model) {
  if (is_absent(value)) return nullptr;
  const std::shared_ptr<Handle> handle = unwrap(value, "adapter");
  if (handle->parent() != &model) {
    throw_invalid("the adapter belongs to another model", "adapter",
                  "create or load it with the model that it is used with");
  }
  return handle->get<AdapterObject>()->adapter;
}

Napi::Value AdapterWrap::info(const Napi::CallbackInfo& info) {
  return guarded(info.Env(),
                 [&] { return to_js(info.Env(), handle()->get<AdapterObject>()->info); });
}

Napi::Value AdapterWrap::save(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    auto object = handle()->get<AdapterObject>();
    return run_async(
        info.Env(), worker(), new_abort_state(),
        [object, folder = read_text(info[0], "folder"), base = read_text(info[1], "baseModelName")](
            std::atomic<bool>&) { object->adapter->save(folder, base); },
        resolve_undefined());
  });
}

}  // namespace lowrank::node
