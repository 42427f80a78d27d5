// NativeAbortFlag: the atomic flag that native work checks; one per AbortSignal.
#pragma once

#include "node/serial_worker.h"

namespace lowrank::node {

class AbortFlagWrap : public Napi::ObjectWrap<AbortFlagWrap> {
 public:
  explicit AbortFlagWrap(const Napi::CallbackInfo& info);
  static Napi::Function define(Napi::Env env);
  static Napi::Value create(const Napi::CallbackInfo& info);
  // The flag of an optional argument; a fresh one when it is undefined.
  static AbortState read(const Napi::Value& value);

 private:
  void set(const Napi::CallbackInfo& info);
  AbortState state_;
};

}  // namespace lowrank::node
