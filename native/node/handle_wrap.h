// Base of the classes around a Handle: made by the engine only, tagged, disposable.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "node/handle.h"
#include "node/promise_worker.h"

namespace lowrank::node {

// `Derived` has kClass (ClassId), kName and kTag (napi_type_tag).
template <typename Derived>
class HandleWrap : public Napi::ObjectWrap<Derived> {
 public:
  explicit HandleWrap(const Napi::CallbackInfo& info)
      : Napi::ObjectWrap<Derived>(info),
        handle_(Environment::of(info.Env()).take_handle<Handle>(info.Env())) {
    info.This().As<Napi::Object>().TypeTag(&Derived::kTag);
  }

  static Napi::Object wrap(Napi::Env env, std::shared_ptr<Handle> handle) {
    return Environment::of(env).construct(Derived::kClass, std::move(handle));
  }

  // The handle inside an argument; throws when it is anything but a `Derived`.
  static std::shared_ptr<Handle> unwrap(const Napi::Value& value, const std::string& where) {
    if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&Derived::kTag)) {
      throw_invalid(std::string("must be a ") + Derived::kName, where);
    }
    return Derived::Unwrap(value.As<Napi::Object>())->handle_;
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    return promised(info.Env(), [this] { return handle_->dispose(); });
  }

 protected:
  const std::shared_ptr<Handle>& handle() const { return handle_; }
  SerialWorker& worker() const { return *handle_->worker(); }

 private:
  std::shared_ptr<Handle> handle_;
};

}  // namespace lowrank::node
