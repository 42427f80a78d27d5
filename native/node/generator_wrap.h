// NativeGenerator: prefill and decode with a cache, one token at a time.
#pragma once

#include "engine.h"
#include "node/handle_wrap.h"

namespace lowrank::node {

// `length` mirrors the generator's for the JavaScript thread; `uses` counts work in flight, during
// which the logits can't be read.
struct GeneratorObject {
  GeneratorObject(std::shared_ptr<Model> model, std::shared_ptr<Adapter> adapter, int32_t capacity)
      : generator(std::move(model), std::move(adapter), capacity),
        cache_bytes(generator.cache_bytes()) {}
  Generator generator;
  uint64_t cache_bytes;
  std::atomic<int64_t> length{0};
  std::shared_ptr<int> uses = std::make_shared<int>(0);
};

class GeneratorWrap : public HandleWrap<GeneratorWrap> {
 public:
  static constexpr ClassId kClass = ClassId::kGenerator;
  static constexpr const char* kName = "generator";
  static constexpr napi_type_tag kTag = {0x6c6f7772616e6b05, 0x37da915e8c604bf2};

  using HandleWrap::HandleWrap;
  static Napi::Function define(Napi::Env env);
  static Napi::Object wrap_new(Napi::Env env, const std::shared_ptr<Handle>& model,
                               std::shared_ptr<GeneratorObject> generator);

 private:
  Napi::Value prefill(const Napi::CallbackInfo& info);
  Napi::Value next(const Napi::CallbackInfo& info);
  Napi::Value logits(const Napi::CallbackInfo& info);
  Napi::Value length(const Napi::CallbackInfo& info);
  Napi::Value cache_bytes(const Napi::CallbackInfo& info);
};

}  // namespace lowrank::node
