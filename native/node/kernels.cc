#include "node/kernels.h"

namespace lowrank::node {
Napi::Value kernel_names(const Napi::CallbackInfo& info) { return Napi::Array::New(info.Env()); }
Napi::Value run_kernel(const Napi::CallbackInfo& info) { return info.Env().Undefined(); }
}  // namespace lowrank::node
