// Rotary embedding in place, rotate-half form (cpu/reference/rope.h).
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

template <typename X>
void rope_rows(const Rope& op, int64_t begin, int64_t end) {
  const int64_t half = op.rotary_dim / 2;
  for (int64_t t = begin; t < end; ++t) {
    const float* cos = op.cos + op.positions[t] * half;
    const float* sin = op.sin + op.positions[t] * half;
    for (int64_t head = 0; head < op.heads; ++head) {
      X* low = row_of<X>(op.x, t) + head * op.head_dim;
      X* high = low + half;
      for_each_vector(half, [&](int64_t i, int64_t n) {
        const F32 a = load_n(low + i, n), b = load_n(high + i, n);
        const F32 c = load_n(cos + i, n);
        F32 s = load_n(sin + i, n);
        if (op.inverse) s = -s;
        store_n(low + i, fma(a, c, -(b * s)), n);
        store_n(high + i, fma(b, c, a * s), n);
      });
    }
  }
}

void rope(CpuDevice& device, const Rope& op) {
  parallel_rows(device, op.x.rows, op.x.cols, [&](int64_t begin, int64_t end) {
    if (op.x.dtype == DType::kBF16)
      rope_rows<BF16>(op, begin, end);
    else
      rope_rows<float>(op, begin, end);
  });
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
