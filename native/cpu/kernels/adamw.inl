// AdamW with f32 states (cpu/reference/optimizer.h), in f32 throughout; the constants of a step are
// computed in f64 and rounded once.
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

void adamw_part(const AdamW& op, const AdamWTensor& tensor, int64_t begin, int64_t end) {
  const double step = static_cast<double>(op.step);
  const double learning_rate = static_cast<double>(tensor.learning_rate);
  const auto beta1 = static_cast<float>(op.beta1), beta2 = static_cast<float>(op.beta2);
  const auto rest1 = static_cast<float>(1 - op.beta1), rest2 = static_cast<float>(1 - op.beta2);
  const auto step_size = static_cast<float>(learning_rate / (1 - __builtin_pow(op.beta1, step)));
  const auto correction = static_cast<float>(1 / __builtin_sqrt(1 - __builtin_pow(op.beta2, step)));
  const auto decay =
      static_cast<float>(1 - learning_rate * static_cast<double>(tensor.weight_decay));
  const auto eps = static_cast<float>(op.eps);
  float* parameter = tensor.parameter + begin;
  float* gradient = tensor.gradient + begin;
  float* m = tensor.m + begin;
  float* v = tensor.v + begin;
  for_each_vector(end - begin, [&](int64_t i, int64_t n) {
    const F32 g = load_n(gradient + i, n) * op.grad_scale;
    const F32 m_new = fma(splat(beta1), load_n(m + i, n), rest1 * g);
    const F32 v_new = fma(splat(beta2), load_n(v + i, n), rest2 * (g * g));
    const F32 update = m_new / fma(sqrt(v_new), splat(correction), splat(eps));
    const F32 p = fma(splat(-step_size), update, load_n(parameter + i, n) * decay);
    store_n(parameter + i, p, n);
    store_n(m + i, m_new, n);
    store_n(v + i, v_new, n);
    store_n(gradient + i, F32{}, n);
  });
}

constexpr int64_t kAdamWPart = 65536;

void adamw_f32(CpuDevice& device, const AdamW& op) {
  int64_t parts = 0;
  for (int32_t t = 0; t < op.tensor_count; ++t)
    parts += (op.tensors[t].count + kAdamWPart - 1) / kAdamWPart;
  // One loop over the parts of all tensors: most tensors of an adapter are a single part.
  device.pool.parallel_for(parts, [&](int64_t index, int) {
    for (int32_t t = 0; t < op.tensor_count; ++t) {
      const int64_t count = op.tensors[t].count;
      const int64_t own = (count + kAdamWPart - 1) / kAdamWPart;
      if (index < own) {
        const int64_t begin = index * kAdamWPart;
        adamw_part(op, op.tensors[t], begin,
                   begin + kAdamWPart < count ? begin + kAdamWPart : count);
        return;
      }
      index -= own;
    }
  });
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
