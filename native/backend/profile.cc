#include "backend/profile.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "backend/registry.h"

namespace lowrank {
namespace {

struct Work {
  std::string shape;
  double flops = 0;
  double bytes = 0;
};

double size(const Matrix& m) {
  return m.data ? static_cast<double>(m.rows * m.cols) * static_cast<double>(dtype_size(m.dtype))
                : 0;
}

const char* storage_name(Storage storage) {
  switch (storage) {
    case Storage::kF32:
      return "f32";
    case Storage::kBF16:
      return "bf16";
    case Storage::kF16:
      return "f16";
    case Storage::kNF4:
      return "nf4";
    case Storage::kInt8:
      return "int8";
  }
  return "?";
}

double size(const Weight& w) {
  const double values = static_cast<double>(w.rows * w.cols);
  switch (w.storage) {
    case Storage::kF32:
      return 4 * values;
    case Storage::kBF16:
    case Storage::kF16:
      return 2 * values;
    case Storage::kNF4:
      return values / 2 + values / kNf4Block * (w.absmax_codes ? 1 : 4);
    case Storage::kInt8:
      return values + 4 * static_cast<double>(w.rows);
  }
  return 0;
}

std::string product_shape(int64_t rows, const Weight& w, DType activation) {
  return std::to_string(rows) + " x " + std::to_string(w.cols) + " -> " + std::to_string(w.rows) +
         " " + dtype_name(activation) + " x " + storage_name(w.storage);
}

// Rows times rank, over the adapters, and how many of the three kinds of product each takes.
template <typename Op>
Work linear_work(const Op& op, int64_t rows, DType activation, double base, double adapter) {
  Work work;
  const double in = static_cast<double>(op.weight.cols), out = static_cast<double>(op.weight.rows);
  work.shape = product_shape(rows, op.weight, activation);
  work.flops = 2 * base * static_cast<double>(rows) * in * out;
  int32_t rank = 0;
  for (int32_t i = 0; i < op.segment_count; ++i) {
    const LoraSegment& s = op.segments[i];
    rank = std::max(rank, s.rank);
    work.flops += 2 * adapter * static_cast<double>(s.row_end - s.row_begin) * s.rank * (in + out);
  }
  if (rank > 0) work.shape += " r" + std::to_string(rank);
  work.bytes = size(op.weight);
  return work;
}

Work work_of(const LinearForward& op) {
  Work work = linear_work(op, op.x.rows, op.x.dtype, 1, 1);
  work.bytes += size(op.x) + size(op.y);
  return work;
}

Work work_of(const LinearBackward& op) {
  const double products = (op.d_x.data ? 1.0 : 0.0) + (op.d_weight ? 1.0 : 0.0);
  Work work = linear_work(op, op.d_y.rows, op.d_y.dtype, products, 2);
  work.bytes += size(op.d_y) + size(op.d_x) + size(op.x);
  return work;
}

Work work_of(const HeadLoss& op) {
  Work work;
  const double products = 1 + (op.d_x.data ? 1.0 : 0.0) + (op.d_weight ? 1.0 : 0.0);
  work.shape = product_shape(op.count, op.weight, op.x.dtype);
  work.flops = 2 * products * static_cast<double>(op.count) * static_cast<double>(op.weight.rows) *
               static_cast<double>(op.weight.cols);
  work.bytes = size(op.weight) + size(op.x) + size(op.d_x);
  return work;
}

Work attention_work(const AttentionForward& op, double products) {
  double pairs = 0;
  for (int32_t d = 0; d < op.documents; ++d) {
    const int64_t queries = op.q_offsets[d + 1] - op.q_offsets[d];
    const int64_t keys = op.k_offsets[d + 1] - op.k_offsets[d];
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t seen = i + keys - queries + 1;
      pairs += static_cast<double>(op.window > 0 ? std::min<int64_t>(seen, op.window) : seen);
    }
  }
  Work work;
  work.shape = std::to_string(op.q.rows) + " in " + std::to_string(op.documents) + ", " +
               std::to_string(op.heads) + "/" + std::to_string(op.kv_heads) + " heads of " +
               std::to_string(op.head_dim) + " " + dtype_name(op.q.dtype);
  work.flops = 2 * products * pairs * op.heads * op.head_dim;
  work.bytes = size(op.q) + size(op.k) + size(op.v) + size(op.out);
  return work;
}
Work work_of(const AttentionForward& op) { return attention_work(op, 2); }
Work work_of(const AttentionBackward& op) {
  // By convention twice the forward pass; the recomputed scores earn no credit.
  Work work = attention_work(op.forward, 4);
  work.bytes += size(op.d_out) + size(op.d_q) + size(op.d_k) + size(op.d_v);
  return work;
}

std::string matrix_shape(const Matrix& m) {
  return std::to_string(m.rows) + " x " + std::to_string(m.cols) + " " + dtype_name(m.dtype);
}
Work work_of(const RmsNormForward& op) { return {matrix_shape(op.x), 0, size(op.x) + size(op.y)}; }
Work work_of(const RmsNormBackward& op) {
  return {matrix_shape(op.x), 0,
          size(op.x) + size(op.d_y) + size(op.d_x) * (op.accumulate_d_x ? 2 : 1)};
}
Work work_of(const LayerNormForward& op) {
  return {matrix_shape(op.x), 0, size(op.x) + size(op.y)};
}
Work work_of(const LayerNormBackward& op) {
  return {matrix_shape(op.x), 0,
          size(op.x) + size(op.d_y) + size(op.d_x) * (op.accumulate_d_x ? 2 : 1)};
}
Work work_of(const Rope& op) { return {matrix_shape(op.x), 0, 2 * size(op.x)}; }
Work work_of(const GatedActivationForward& op) {
  return {matrix_shape(op.gate), 0, size(op.gate) + size(op.up) + size(op.y)};
}
Work work_of(const GatedActivationBackward& op) {
  return {matrix_shape(op.gate), 0,
          size(op.gate) + size(op.up) + size(op.d_y) + size(op.d_gate) + size(op.d_up)};
}
Work work_of(const EmbeddingForward& op) { return {matrix_shape(op.y), 0, 2 * size(op.y)}; }
Work work_of(const EmbeddingBackward& op) { return {matrix_shape(op.d_y), 0, 3 * size(op.d_y)}; }
Work work_of(const AdamW& op) {
  double values = 0;
  for (int32_t i = 0; i < op.tensor_count; ++i) values += static_cast<double>(op.tensors[i].count);
  return {std::to_string(op.tensor_count) + " tensors", 0, values * (op.eight_bit ? 16 : 28)};
}
Work work_of(const SquaredNorm& op) {
  double values = 0;
  for (int32_t i = 0; i < op.tensor_count; ++i) values += static_cast<double>(op.counts[i]);
  return {std::to_string(op.tensor_count) + " tensors", 0, values * 4};
}
Work work_of(const Cast& op) {
  const double bytes = static_cast<double>(dtype_size(op.from_dtype) + dtype_size(op.to_dtype));
  return {std::to_string(op.count), 0, static_cast<double>(op.count) * bytes};
}
Work work_of(const QuantizeNf4& op) {
  return {std::to_string(op.count), 0, static_cast<double>(op.count) * 4.5};
}
Work work_of(const QuantizeAbsmax& op) {
  return {std::to_string(op.count), 0, static_cast<double>(op.count) * 5};
}
Work work_of(const QuantizeInt8& op) {
  const double bytes = static_cast<double>(dtype_size(op.from_dtype)) + 1;
  return {std::to_string(op.rows) + " x " + std::to_string(op.cols), 0,
          static_cast<double>(op.rows * op.cols) * bytes};
}
Work work_of(const Dequantize& op) {
  const double values = static_cast<double>(op.weight.rows * op.weight.cols);
  return {std::to_string(op.weight.rows) + " x " + std::to_string(op.weight.cols), 0,
          size(op.weight) + values * static_cast<double>(dtype_size(op.to_dtype))};
}

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
    Work work = work_of(*op);
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
  const Backend& inner = find_backend(name);
  auto device = std::make_unique<Profiled>();
  device->inner = &inner;
  device->handle = Device::open_handle(inner, options);
  device->table = wrap(inner);
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
