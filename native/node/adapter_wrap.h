// NativeAdapter: a LoRA adapter over one model.
#pragma once

#include "engine.h"
#include "node/handle_wrap.h"

namespace lowrank::node {

struct AdapterObject {
  explicit AdapterObject(std::shared_ptr<Adapter> made)
      : adapter(std::move(made)), info(adapter->info()) {}
  std::shared_ptr<Adapter> adapter;
  AdapterInfo info;
};

class AdapterWrap : public HandleWrap<AdapterWrap> {
 public:
  static constexpr ClassId kClass = ClassId::kAdapter;
  static constexpr const char* kName = "adapter";
  static constexpr napi_type_tag kTag = {0x6c6f7772616e6b03, 0x51f3c86a0d7b4e92};

  using HandleWrap::HandleWrap;
  static Napi::Function define(Napi::Env env);
  static Napi::Object wrap_new(Napi::Env env, const std::shared_ptr<Handle>& model,
                               std::shared_ptr<AdapterObject> adapter);
  // The engine's adapter of an argument that may be null; it must belong to `model`.
  static std::shared_ptr<Adapter> read(const Napi::Value& value, const Handle& model);

 private:
  Napi::Value info(const Napi::CallbackInfo& info);
  Napi::Value save(const Napi::CallbackInfo& info);
};

}  // namespace lowrank::node
