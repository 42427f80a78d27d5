// The addon's functions that belong to no object (NativeAddon in lib/native/addon.ts).
#pragma once

#include "node/napi_setup.h"

namespace lowrank::node {

Napi::Value list_backends(const Napi::CallbackInfo& info);
Napi::Value choose_plugin_folder(const Napi::CallbackInfo& info);
Napi::Value describe_device(const Napi::CallbackInfo& info);
Napi::Value measure_peak(const Napi::CallbackInfo& info);
Napi::Value estimate_plan(const Napi::CallbackInfo& info);
Napi::Value merge_adapter_folder(const Napi::CallbackInfo& info);
Napi::Value inspect_safetensors(const Napi::CallbackInfo& info);
Napi::Value memory_use(const Napi::CallbackInfo& info);
Napi::Value sync_directory(const Napi::CallbackInfo& info);

}  // namespace lowrank::node
