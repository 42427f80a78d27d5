// NativeModel: a base model and the thread it lives on.
#pragma once

#include "node/handle_wrap.h"
#include "node/options.h"

namespace lowrank::node {

struct ModelObject {
  std::shared_ptr<Device> device;
  std::shared_ptr<Model> model;
  ModelInfo info;
};

class ModelWrap : public HandleWrap<ModelWrap> {
 public:
  static constexpr ClassId kClass = ClassId::kModel;
  static constexpr const char* kName = "model";
  static constexpr napi_type_tag kTag = {0x6c6f7772616e6b02, 0x2b8d7e0f95a34c61};

  using HandleWrap::HandleWrap;
  static Napi::Function define(Napi::Env env);
  // NativeAddon.loadModel and createModel.
  static Napi::Value load(const Napi::CallbackInfo& info);
  static Napi::Value create(const Napi::CallbackInfo& info);

 private:
  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value save(const Napi::CallbackInfo& info);
  Napi::Value take_profile(const Napi::CallbackInfo& info);
  Napi::Value create_adapter(const Napi::CallbackInfo& info);
  Napi::Value load_adapter(const Napi::CallbackInfo& info);
  Napi::Value create_session(const Napi::CallbackInfo& info);
  Napi::Value create_generator(const Napi::CallbackInfo& info);
  Napi::Value forward_logits(const Napi::CallbackInfo& info);
};

}  // namespace lowrank::node
