#include "node/abort_flag_wrap.h"

#include "node/options_reader.h"
#include "node/promise_worker.h"

namespace lowrank::node {

namespace {
constexpr napi_type_tag kTag = {0x6c6f7772616e6b01, 0x8f0e5d7a41c24e19};
}  // namespace

AbortFlagWrap::AbortFlagWrap(const Napi::CallbackInfo& info)
    : Napi::ObjectWrap<AbortFlagWrap>(info),
      state_(Environment::of(info.Env()).take_handle<std::atomic<bool>>(info.Env())) {
  info.This().As<Napi::Object>().TypeTag(&kTag);
}

Napi::Function AbortFlagWrap::define(Napi::Env env) {
  return DefineClass(env, "NativeAbortFlag", {InstanceMethod<&AbortFlagWrap::set>("abort")});
}

Napi::Value AbortFlagWrap::create(const Napi::CallbackInfo& info) {
  return Environment::of(info.Env()).construct(ClassId::kAbortFlag, new_abort_state());
}

AbortState AbortFlagWrap::read(const Napi::Value& value) {
  if (is_absent(value)) return new_abort_state();
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTag)) {
    throw_invalid("must be an abort flag", "abort");
  }
  return Unwrap(value.As<Napi::Object>())->state_;
}

void AbortFlagWrap::set(const Napi::CallbackInfo&) { state_->store(true); }

}  // namespace lowrank::node
