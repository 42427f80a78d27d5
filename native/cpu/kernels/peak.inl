// Loops that do nothing but what a peak counts; cpu/peak.cc keeps the time.
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

// Enough independent chains to hide the latency of two units in the registers there are.
#if LOWRANK_VECTOR_BYTES == 32
constexpr int kChains = 12;
#else
constexpr int kChains = 20;
#endif

// Products in registers, sum = multiply(sum, a, b), each of so many FLOPs a lane. Returns the FLOPs
// done.
template <typename V, typename Multiply>
LOWRANK_INLINE int64_t product_loop(int64_t rounds, V a, V b, int64_t flops,
                                    const Multiply& multiply) {
  F32 sums[kChains];
#pragma GCC unroll 20
  for (int i = 0; i < kChains; ++i) sums[i] = splat(0.25f * static_cast<float>(i));
  for (int64_t round = 0; round < rounds; ++round) {
    __asm__ volatile("" : "+m"(a), "+m"(b));  // values that the compiler can't foresee
    const V x = a, y = b;
    for (int repeat = 0; repeat < 64; ++repeat) {
#pragma GCC unroll 20
      for (int i = 0; i < kChains; ++i) sums[i] = multiply(sums[i], x, y);
    }
  }
#pragma GCC unroll 20
  for (int i = 0; i < kChains; ++i) __asm__ volatile("" : : "m"(sums[i]));
  return rounds * 64 * kChains * kLanes * flops;
}

int64_t multiply_loop(int64_t rounds) {
  return product_loop(rounds, splat(0.5f), splat(1.0f), 2,
                      [](F32 sum, F32 a, F32 b) { return fma(sum, a, b); });
}

#ifdef LOWRANK_BF16_UNIT
int64_t multiply_pairs_loop(int64_t rounds) {
  const U32 halves = splat_bits(0x3f003f00u);  // pairs of 0.5
  return product_loop(rounds, halves, halves, 4, [](F32 sum, U32 a, U32 b) {
    return (F32)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  });
}
#endif

// Reads every byte once, four vectors at a time. `bytes` is a multiple of 256.
void read_loop(const void* from, size_t bytes) {
  const int32_t* at = static_cast<const int32_t*>(from);
  const int32_t* end = at + bytes / 4;
  I32 a{}, b{}, c{}, d{};
  for (; at < end; at += 4 * kLanes) {
    a |= load_raw<I32>(at);
    b |= load_raw<I32>(at + kLanes);
    c |= load_raw<I32>(at + 2 * kLanes);
    d |= load_raw<I32>(at + 3 * kLanes);
  }
  a |= b | c | d;
  __asm__ volatile("" : : "m"(a));
}

void register_peak(KernelTable& table) {
  table.f32_product_loop = multiply_loop;
#ifdef LOWRANK_BF16_UNIT
  table.bf16_product_loop = multiply_pairs_loop;
#else
  table.bf16_product_loop = multiply_loop;
#endif
  table.read_loop = read_loop;
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
