#include "node/functions.h"

#include "backend/registry.h"
#include "core/os.h"
#include "io/safetensors.h"
#include "node/options.h"
#include "node/progress.h"
#include "node/promise_worker.h"
#include "node/results.h"

namespace lowrank::node {

Napi::Value list_backends(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&] {
    const std::vector<BackendReport> reports = lowrank::list_backends();
    Napi::Array array = Napi::Array::New(env, reports.size());
    for (uint32_t i = 0; i < reports.size(); ++i) {
      Napi::Object object = Napi::Object::New(env);
      object.Set("name", reports[i].name);
      object.Set("available", reports[i].available);
      object.Set("message", reports[i].message);
      array.Set(i, object);
    }
    return array;
  });
}

Napi::Value choose_plugin_folder(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    set_plugin_folder(read_text(info[0], "folder"));
    return info.Env().Undefined();
  });
}

Napi::Value describe_device(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&] {
    const std::shared_ptr<Device> opened = read_device(info[0]).open();
    const DeviceInfo device = opened->info();
    Napi::Object object = Napi::Object::New(env);
    object.Set("device", opened->backend().name);
    object.Set("name", device.name);
    object.Set("isa", device.isa);
    object.Set("threads", device.threads);
    object.Set("totalBytes", static_cast<double>(device.total_bytes));
    object.Set("freeBytes", static_cast<double>(device.free_bytes));
    object.Set("library", device.library);
    object.Set("note", device.note);
    return object;
  });
}

Napi::Value measure_peak(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    const std::string name = read_text(info[1], "kind");
    PeakKind kind = PeakKind::kF32Products;
    if (name == "bf16") {
      kind = PeakKind::kBF16Products;
    } else if (name == "memory") {
      kind = PeakKind::kMemoryRead;
    } else if (name != "f32") {
      throw Error(ErrorCode::kInvalidArgument, "there is no peak '" + name + "'", "kind",
                  "use f32, bf16 or memory");
    }
    const std::shared_ptr<SerialWorker> worker = Environment::of(info.Env()).new_worker();
    return run_async(
        info.Env(), *worker, new_abort_state(),
        [device = read_device(info[0]), kind](std::atomic<bool>&) {
          return device.open()->peak(kind);
        },
        [worker](Napi::Env env, double rate) -> napi_value {
          return Napi::Number::New(env, rate);
        });
  });
}

Napi::Value estimate_plan(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    const DeviceRequest device = read_device(info[0]);
    const std::string config = read_text(info[1], "configJson");
    const EstimateOptions options =
        read_estimate_options(OptionsReader(info[2], "estimate options"));
    return to_js(info.Env(), estimate(device.open(), config, options));
  });
}

Napi::Value merge_adapter_folder(const Napi::CallbackInfo& info) {
  return promised(info.Env(), [&] {
    auto channel = ProgressChannel::open(info[4]);
    const std::shared_ptr<SerialWorker> worker = Environment::of(info.Env()).new_worker();
    return run_async(
        info.Env(), *worker, new_abort_state(),
        [device = read_device(info[0]), model = read_text(info[1], "modelFolder"),
         adapter = read_text(info[2], "adapterFolder"), output = read_text(info[3], "outputFolder"),
         report = ProgressChannel::reporter(channel)](std::atomic<bool>&) {
          return merge_adapter(device.open(), model, adapter, output, report);
        },
        [worker, channel](Napi::Env env, const MergeReport& report) -> napi_value {
          return to_js(env, report);
        });
  });
}

Napi::Value inspect_safetensors(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  return guarded(env, [&] {
    const SafetensorsFile file(read_text(info[0], "file"));
    Napi::Array tensors = Napi::Array::New(env, file.tensors().size());
    for (uint32_t i = 0; i < file.tensors().size(); ++i) {
      const TensorView& tensor = file.tensors()[i];
      Napi::Array shape = Napi::Array::New(env, tensor.shape.size());
      for (uint32_t d = 0; d < tensor.shape.size(); ++d) {
        shape.Set(d, static_cast<double>(tensor.shape[d]));
      }
      Napi::Object object = Napi::Object::New(env);
      object.Set("name", tensor.name);
      object.Set("dtype", safetensors_dtype_name(tensor.dtype));
      object.Set("shape", shape);
      object.Set("bytes", static_cast<double>(tensor.bytes));
      tensors.Set(i, object);
    }
    Napi::Object metadata = Napi::Object::New(env);
    for (const auto& [key, value] : file.metadata()) metadata.Set(key, value);
    Napi::Object object = Napi::Object::New(env);
    object.Set("tensors", tensors);
    object.Set("metadata", metadata);
    return object;
  });
}

Napi::Value memory_use(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    Napi::Object object = Napi::Object::New(info.Env());
    object.Set("peakResidentBytes", static_cast<double>(os::peak_resident_bytes()));
    object.Set("residentBytes", static_cast<double>(os::resident_bytes()));
    object.Set("availableBytes", static_cast<double>(os::available_memory_bytes()));
    return object;
  });
}

Napi::Value sync_directory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), [&] {
    os::sync_directory(read_text(info[0], "path"));
    return info.Env().Undefined();
  });
}

}  // namespace lowrank::node
