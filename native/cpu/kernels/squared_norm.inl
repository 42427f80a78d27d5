// Sum of squares in f64: parts of a fixed size, added in their order.
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

double sum_of_squares(const float* values, int64_t count) {
  constexpr int kHalf = kLanes / 2;
  F64 sum0{}, sum1{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const F64 low = __builtin_convertvector(load_raw<HalfF32>(values + i), F64);
    const F64 high = __builtin_convertvector(load_raw<HalfF32>(values + i + kHalf), F64);
    sum0 += low * low;
    sum1 += high * high;
  }
  double sum = reduce_add(sum0 + sum1);
  for (; i < count; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  return sum;
}

void squared_norm(CpuDevice& device, const SquaredNorm& op) {
  // The partial sums stand in the shared scratch; parts grow until they fit.
  constexpr int64_t kCapacity = static_cast<int64_t>(kSharedScratchBytes / sizeof(double));
  int64_t part = 65536, parts = 0;
  for (;; part *= 2) {
    parts = 0;
    for (int32_t t = 0; t < op.tensor_count; ++t) parts += (op.counts[t] + part - 1) / part;
    if (parts <= kCapacity || part > (int64_t{1} << 40)) break;
  }
  if (parts > kCapacity) return device.reference.squared_norm(device, op);
  auto* partial = static_cast<double*>(device.shared_scratch());
  device.pool.parallel_for(parts, [&](int64_t index, int) {
    const int64_t slot = index;
    for (int32_t t = 0; t < op.tensor_count; ++t) {
      const int64_t own = (op.counts[t] + part - 1) / part;
      if (index < own) {
        const int64_t begin = index * part, rest = op.counts[t] - begin;
        partial[slot] = sum_of_squares(op.tensors[t] + begin, rest < part ? rest : part);
        return;
      }
      index -= own;
    }
  });
  double sum = 0;
  for (int64_t i = 0; i < parts; ++i) sum += partial[i];
  *op.result = sum;
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
