#include "node/kernels/kernels.h"

#include "node/kernels/kernel_table.h"
#include "node/options.h"
#include "node/promise_worker.h"

namespace lowrank::node {

namespace {

struct KernelEntry {
  const char* name;
  ReadKernel read;
};

constexpr KernelEntry kKernels[] = {
    {"linear_forward", read_linear_forward},
    {"linear_backward", read_linear_backward},
    {"rms_norm_forward", read_rms_norm_forward},
    {"rms_norm_backward", read_rms_norm_backward},
    {"rope", read_rope},
    {"gated_activation_forward", read_gated_activation_forward},
    {"gated_activation_backward", read_gated_activation_backward},
    {"attention_forward", read_attention_forward},
    {"attention_backward", read_attention_backward},
    {"embedding_forward", read_embedding_forward},
    {"embedding_backward", read_embedding_backward},
    {"head_loss", read_head_loss},
    {"adamw", read_adamw},
    {"squared_norm", read_squared_norm},
    {"cast", read_cast},
    {"quantize_nf4", read_quantize_nf4},
    {"quantize_absmax", read_quantize_absmax},
    {"dequantize", read_dequantize},
};

// The device that kernels run on stays open between calls; used on the shared worker only.
struct KernelDevice {
  DeviceRequest request;
  std::shared_ptr<Device> device;

  const std::shared_ptr<Device>& open(const DeviceRequest& wanted) {
    if (!device || !(wanted == request)) {
      device.reset();
      device = wanted.open();
      request = wanted;
    }
    return device;
  }
};

}  // namespace

Napi::Value kernel_names(const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  for (const KernelEntry& kernel : kKernels) names.Set(names.Length(), kernel.name);
  return names;
}

Napi::Value run_kernel(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&]() -> Napi::Value {
    const std::string name = read_text(info[1], "name");
    const KernelEntry* entry = nullptr;
    for (const KernelEntry& kernel : kKernels) {
      if (name == kernel.name) entry = &kernel;
    }
    if (!entry) throw_invalid("there is no kernel \"" + name + "\"", "name", "see names()");

    OptionsReader args(info[2], name);
    const int64_t repeat = args.has("repeat") ? args.integer("repeat", 0, 1'000'000) : 0;
    auto call = std::make_shared<KernelCall>();
    entry->read(args, *call);
    args.finish();

    Environment& environment = Environment::of(info.Env());
    const auto cached = environment.kernel_state<KernelDevice>();
    return run_async(
        info.Env(), *environment.shared_worker(), new_abort_state(),
        [call, cached, repeat, device = read_device(info[0])](std::atomic<bool>&) {
          call->run(cached->open(device), repeat);
        },
        [call](Napi::Env env) -> napi_value { return call->results(env); });
  });
}

}  // namespace lowrank::node
