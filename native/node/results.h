// The facade's reports as JavaScript objects (lib/native/addon.ts describes them).
#pragma once

#include <vector>

#include "backend/profile.h"
#include "engine.h"
#include "node/napi_setup.h"

namespace lowrank::node {

Napi::Object to_js(Napi::Env env, const ModelInfo& info);
Napi::Object to_js(Napi::Env env, const AdapterInfo& info);
Napi::Object to_js(Napi::Env env, const StepResult& result);
Napi::Object to_js(Napi::Env env, const PlanReport& plan);
Napi::Object to_js(Napi::Env env, const MergeReport& report);
Napi::Array to_js(Napi::Env env, const std::vector<ProfileRow>& rows);
Napi::Float32Array to_js(Napi::Env env, const std::vector<float>& values);
Napi::Array to_js(Napi::Env env, const std::vector<std::string>& values);

}  // namespace lowrank::node
