// Kernels one by one, for people who measure them: NativeKernels (lib/kernels.ts documents each).
#pragma once

#include "node/napi_setup.h"

namespace lowrank::node {

Napi::Value kernel_names(const Napi::CallbackInfo& info);
Napi::Value run_kernel(const Napi::CallbackInfo& info);

}  // namespace lowrank::node
