// NativeSession: training steps and evaluation over one model.
#pragma once

#include "engine.h"
#include "node/handle_wrap.h"

namespace lowrank::node {

struct SessionObject {
  SessionObject(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter,
                const SessionOptions& options)
      : session(std::move(model), std::move(adapter), options), plan(session.plan()) {}
  Session session;
  PlanReport plan;
};

class SessionWrap : public HandleWrap<SessionWrap> {
 public:
  static constexpr ClassId kClass = ClassId::kSession;
  static constexpr const char* kName = "session";
  static constexpr napi_type_tag kTag = {0x6c6f7772616e6b04, 0x9c27e4b35f1d4086};

  using HandleWrap::HandleWrap;
  static Napi::Function define(Napi::Env env);
  static Napi::Object wrap_new(Napi::Env env, const std::shared_ptr<Handle>& model,
                               std::shared_ptr<SessionObject> session);

 private:
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value evaluate(const Napi::CallbackInfo& info);
  Napi::Value gradients(const Napi::CallbackInfo& info);
  Napi::Value plan(const Napi::CallbackInfo& info);
  Napi::Value save_state(const Napi::CallbackInfo& info);
  Napi::Value load_state(const Napi::CallbackInfo& info);
};

}  // namespace lowrank::node
