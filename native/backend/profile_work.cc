#include "backend/profile_work.h"

#include <algorithm>
#include <cstdint>
#include <vector>

namespace lowrank {
namespace {

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

// Offsets that stand on the device, for the host.
std::vector<int32_t> host_offsets(const WorkDevice& device, const int32_t* offsets,
                                  int32_t documents) {
  std::vector<int32_t> out(static_cast<size_t>(documents) + 1);
  device.backend->download(device.handle, out.data(), offsets, out.size() * sizeof(int32_t));
  return out;
}

Work attention_work(const WorkDevice& device, const AttentionForward& op, double products) {
  const std::vector<int32_t> q_offsets = host_offsets(device, op.q_offsets, op.documents);
  const std::vector<int32_t> k_offsets = host_offsets(device, op.k_offsets, op.documents);
  double pairs = 0;
  for (size_t d = 0; d < static_cast<size_t>(op.documents); ++d) {
    const int64_t queries = q_offsets[d + 1] - q_offsets[d];
    const int64_t keys = k_offsets[d + 1] - k_offsets[d];
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

std::string matrix_shape(const Matrix& m) {
  return std::to_string(m.rows) + " x " + std::to_string(m.cols) + " " + dtype_name(m.dtype);
}
}  // namespace

Work work_of(const WorkDevice&, const LinearForward& op) {
  Work work = linear_work(op, op.x.rows, op.x.dtype, 1, 1);
  work.bytes += size(op.x) + size(op.y);
  return work;
}

Work work_of(const WorkDevice&, const LinearBackward& op) {
  const double products = (op.d_x.data ? 1.0 : 0.0) + (op.d_weight ? 1.0 : 0.0);
  Work work = linear_work(op, op.d_y.rows, op.d_y.dtype, products, 2);
  work.bytes += size(op.d_y) + size(op.d_x) + size(op.x);
  return work;
}

Work work_of(const WorkDevice&, const HeadLoss& op) {
  Work work;
  const double products = 1 + (op.d_x.data ? 1.0 : 0.0) + (op.d_weight ? 1.0 : 0.0);
  work.shape = product_shape(op.count, op.weight, op.x.dtype);
  work.flops = 2 * products * static_cast<double>(op.count) * static_cast<double>(op.weight.rows) *
               static_cast<double>(op.weight.cols);
  work.bytes = size(op.weight) + size(op.x) + size(op.d_x);
  return work;
}

Work work_of(const WorkDevice& device, const AttentionForward& op) {
  return attention_work(device, op, 2);
}
Work work_of(const WorkDevice& device, const AttentionBackward& op) {
  // By convention twice the forward pass; the recomputed scores earn no credit.
  Work work = attention_work(device, op.forward, 4);
  work.bytes += size(op.d_out) + size(op.d_q) + size(op.d_k) + size(op.d_v);
  return work;
}

Work work_of(const WorkDevice&, const RmsNormForward& op) {
  return {matrix_shape(op.x), 0, size(op.x) + size(op.y)};
}
Work work_of(const WorkDevice&, const RmsNormBackward& op) {
  return {matrix_shape(op.x), 0,
          size(op.x) + size(op.d_y) + size(op.d_x) * (op.accumulate_d_x ? 2 : 1)};
}
Work work_of(const WorkDevice&, const LayerNormForward& op) {
  return {matrix_shape(op.x), 0, size(op.x) + size(op.y)};
}
Work work_of(const WorkDevice&, const LayerNormBackward& op) {
  return {matrix_shape(op.x), 0,
          size(op.x) + size(op.d_y) + size(op.d_x) * (op.accumulate_d_x ? 2 : 1)};
}
Work work_of(const WorkDevice&, const Rope& op) { return {matrix_shape(op.x), 0, 2 * size(op.x)}; }
Work work_of(const WorkDevice&, const GatedActivationForward& op) {
  return {matrix_shape(op.gate), 0, size(op.gate) + size(op.up) + size(op.y)};
}
Work work_of(const WorkDevice&, const GatedActivationBackward& op) {
  return {matrix_shape(op.gate), 0,
          size(op.gate) + size(op.up) + size(op.d_y) + size(op.d_gate) + size(op.d_up)};
}
Work work_of(const WorkDevice&, const EmbeddingForward& op) {
  return {matrix_shape(op.y), 0, 2 * size(op.y)};
}
Work work_of(const WorkDevice&, const EmbeddingBackward& op) {
  return {matrix_shape(op.d_y), 0, 3 * size(op.d_y)};
}
Work work_of(const WorkDevice&, const AdamW& op) {
  double values = 0;
  for (int32_t i = 0; i < op.tensor_count; ++i) values += static_cast<double>(op.tensors[i].count);
  return {std::to_string(op.tensor_count) + " tensors", 0, values * (op.eight_bit ? 16 : 28)};
}
Work work_of(const WorkDevice&, const SquaredNorm& op) {
  double values = 0;
  for (int32_t i = 0; i < op.tensor_count; ++i) values += static_cast<double>(op.counts[i]);
  return {std::to_string(op.tensor_count) + " tensors", 0,
          (values + static_cast<double>(op.finite_count)) * 4};
}
Work work_of(const WorkDevice&, const Cast& op) {
  const double bytes = static_cast<double>(dtype_size(op.from_dtype) + dtype_size(op.to_dtype));
  return {std::to_string(op.count), 0, static_cast<double>(op.count) * bytes};
}
Work work_of(const WorkDevice&, const QuantizeNf4& op) {
  return {std::to_string(op.count), 0, static_cast<double>(op.count) * 4.5};
}
Work work_of(const WorkDevice&, const QuantizeAbsmax& op) {
  return {std::to_string(op.count), 0, static_cast<double>(op.count) * 5};
}
Work work_of(const WorkDevice&, const QuantizeInt8& op) {
  const double bytes = static_cast<double>(dtype_size(op.from_dtype)) + 1;
  return {std::to_string(op.rows) + " x " + std::to_string(op.cols), 0,
          static_cast<double>(op.rows * op.cols) * bytes};
}
Work work_of(const WorkDevice&, const Dequantize& op) {
  const double values = static_cast<double>(op.weight.rows * op.weight.cols);
  return {std::to_string(op.weight.rows) + " x " + std::to_string(op.weight.cols), 0,
          size(op.weight) + values * static_cast<double>(dtype_size(op.to_dtype))};
}

}  // namespace lowrank
