#include "backend/profile.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "backend/profile_work.h"

namespace lowrank {
namespace {

struct Profiled {
  const Backend* inner = nullptr;
  void* handle = nullptr;
  Backend table{};
  std::mutex mutex;  // of rows
  std::map<std::pair<std::string, std::string>, ProfileRow> rows;
};

Profiled& profiled(void* device) { return *static_cast<Profiled*>(device); }

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Any other row of the table: passed on.
template <auto Row>
struct Pass;
template <typename Result, typename... Args, Result (*Backend::*Row)(void*, Args...)>
struct Pass<Row> {
  static Result call(void* device, Args... args) {
    return (profiled(device).inner->*Row)(profiled(device).handle, args...);
  }
};

template <auto Row>
struct Timed;
template <typename Op, int (*Backend::*Row)(void*, const Op*)>
struct Timed<Row> {
  static inline const char* name = nullptr;
  static int call(void* device, const Op* op) {
    Profiled& p = profiled(device);
    const std::lock_guard lock(p.mutex);
    const double begin = now();
    int status = (p.inner->*Row)(p.handle, op);
    if (status == 0) status = p.inner->synchronize(p.handle);
    const double seconds = now() - begin;
    Work work = work_of({p.inner, p.handle}, *op);
    ProfileRow& row = p.rows[{name, work.shape}];
    row.op = name;
    row.shape = std::move(work.shape);
    row.calls += 1;
    row.seconds += seconds;
    row.flops += work.flops;
    row.bytes += work.bytes;
    return status;
  }
};

template <auto Row>
void time_row(Backend& backend, const char* name) {
  Timed<Row>::name = name;
  backend.*Row = Timed<Row>::call;
}
template <auto Row>
void pass_row(Backend& backend) {
  backend.*Row = Pass<Row>::call;
}

// The table around `inner`; it lives as long as the device. `open` isn't called through it.
Backend wrap(const Backend& inner) {
  using B = Backend;
  B b = inner;
  b.close = [](void* device) {
    profiled(device).inner->close(profiled(device).handle);
    delete &profiled(device);
  };
  pass_row<&B::last_error>(b);
  pass_row<&B::describe>(b);
  pass_row<&B::allocate>(b);
  pass_row<&B::release>(b);
  pass_row<&B::upload>(b);
  pass_row<&B::download>(b);
  pass_row<&B::copy>(b);
  pass_row<&B::fill_zero>(b);
  pass_row<&B::synchronize>(b);
  pass_row<&B::linear_workspace_bytes>(b);
  pass_row<&B::attention_workspace_bytes>(b);
  pass_row<&B::head_loss_workspace_bytes>(b);
  pass_row<&B::measure_peak>(b);
  time_row<&B::linear_forward>(b, "linear_forward");
  time_row<&B::linear_backward>(b, "linear_backward");
  time_row<&B::rms_norm_forward>(b, "rms_norm_forward");
  time_row<&B::rms_norm_backward>(b, "rms_norm_backward");
  time_row<&B::layer_norm_forward>(b, "layer_norm_forward");
  time_row<&B::layer_norm_backward>(b, "layer_norm_backward");
  time_row<&B::rope>(b, "rope");
  time_row<&B::gated_activation_forward>(b, "gated_activation_forward");
  time_row<&B::gated_activation_backward>(b, "gated_activation_backward");
  time_row<&B::attention_forward>(b, "attention_forward");
  time_row<&B::attention_backward>(b, "attention_backward");
  time_row<&B::embedding_forward>(b, "embedding_forward");
  time_row<&B::embedding_backward>(b, "embedding_backward");
  time_row<&B::head_loss>(b, "head_loss");
  time_row<&B::adamw>(b, "adamw");
  time_row<&B::squared_norm>(b, "squared_norm");
  time_row<&B::cast>(b, "cast");
  time_row<&B::quantize_nf4>(b, "quantize_nf4");
  time_row<&B::quantize_absmax>(b, "quantize_absmax");
  time_row<&B::quantize_int8>(b, "quantize_int8");
  time_row<&B::dequantize>(b, "dequantize");
  return b;
}

}  // namespace

std::shared_ptr<Device> open_profiled(const std::string& name, const DeviceOptions& options) {
  const Device::Opened inner = Device::open_handle(name, options);
  auto device = std::make_unique<Profiled>();
  device->inner = inner.backend;
  device->handle = inner.handle;
  device->table = wrap(*inner.backend);
  const Backend& table = device->table;
  return Device::adopt(table, device.release());
}

std::vector<ProfileRow> take_profile(Device& device) {
  std::vector<ProfileRow> rows;
  if (device.backend().linear_forward != Timed<&Backend::linear_forward>::call) return rows;
  const std::lock_guard lock(profiled(device.handle()).mutex);
  for (auto& [key, row] : profiled(device.handle()).rows) rows.push_back(std::move(row));
  profiled(device.handle()).rows.clear();
  std::sort(rows.begin(), rows.end(),
            [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  return rows;
}

}  // namespace lowrank
