// Registers what the addon exports; the typed surface is lib/native/addon.ts.
#include "engine.h"
#include "node/abort_flag_wrap.h"
#include "node/adapter_wrap.h"
#include "node/functions.h"
#include "node/generator_wrap.h"
#include "node/kernels/kernels.h"
#include "node/model_wrap.h"
#include "node/session_wrap.h"

namespace lowrank::node {

namespace {

void define_classes(Napi::Env env) {
  Environment& environment = Environment::install(env);
  environment.set_constructor(ClassId::kModel, ModelWrap::define(env));
  environment.set_constructor(ClassId::kAdapter, AdapterWrap::define(env));
  environment.set_constructor(ClassId::kSession, SessionWrap::define(env));
  environment.set_constructor(ClassId::kGenerator, GeneratorWrap::define(env));
  environment.set_constructor(ClassId::kAbortFlag, AbortFlagWrap::define(env));
}

Napi::Object define_kernels(Napi::Env env) {
  Napi::Object kernels = Napi::Object::New(env);
  kernels.Set("names", Napi::Function::New<&kernel_names>(env, "names"));
  kernels.Set("run", Napi::Function::New<&run_kernel>(env, "run"));
  return kernels;
}

Napi::Object define_addon(Napi::Env env, Napi::Object exports) {
  define_classes(env);
  exports.Set("version", engine_version());
  exports.Set("listBackends", Napi::Function::New<&list_backends>(env, "listBackends"));
  exports.Set("setPluginFolder",
              Napi::Function::New<&choose_plugin_folder>(env, "setPluginFolder"));
  exports.Set("describeDevice", Napi::Function::New<&describe_device>(env, "describeDevice"));
  exports.Set("measurePeak", Napi::Function::New<&measure_peak>(env, "measurePeak"));
  exports.Set("createAbortFlag",
              Napi::Function::New<&AbortFlagWrap::create>(env, "createAbortFlag"));
  exports.Set("loadModel", Napi::Function::New<&ModelWrap::load>(env, "loadModel"));
  exports.Set("createModel", Napi::Function::New<&ModelWrap::create>(env, "createModel"));
  exports.Set("estimate", Napi::Function::New<&estimate_plan>(env, "estimate"));
  exports.Set("mergeAdapter", Napi::Function::New<&merge_adapter_folder>(env, "mergeAdapter"));
  exports.Set("inspectSafetensors",
              Napi::Function::New<&inspect_safetensors>(env, "inspectSafetensors"));
  exports.Set("memory", Napi::Function::New<&memory_use>(env, "memory"));
  exports.Set("syncDirectory", Napi::Function::New<&sync_directory>(env, "syncDirectory"));
  exports.Set("kernels", define_kernels(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(lowrank, define_addon)

}  // namespace lowrank::node
