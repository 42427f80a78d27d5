// Conversion between float types, by way of f32.
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

template <typename From, typename To>
void cast_values(CpuDevice& device, const Cast& op) {
  const From* from = static_cast<const From*>(op.from);
  To* to = static_cast<To*>(op.to);
  parallel_rows(device, op.count, 1, [&](int64_t begin, int64_t end) {
    for_each_vector(end - begin, [&](int64_t i, int64_t n) {
      store_n(to + begin + i, load_n(from + begin + i, n), n);
    });
  });
}

template <typename From>
void cast_from(CpuDevice& device, const Cast& op) {
  if (op.to_dtype == DType::kBF16) return cast_values<From, BF16>(device, op);
  if (op.to_dtype == DType::kF16) return cast_values<From, F16>(device, op);
  cast_values<From, float>(device, op);
}

void cast(CpuDevice& device, const Cast& op) {
  if (op.from_dtype == DType::kBF16) return cast_from<BF16>(device, op);
  if (op.from_dtype == DType::kF16) return cast_from<F16>(device, op);
  cast_from<float>(device, op);
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
