// The functions of cpu/simd_math.h over arrays, compiled once per instruction set for simd_test.cc.
#include "cpu/simd_math.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {

void probe_exp(const float* from, float* to, int64_t count) {
  for_each_vector(count,
                  [&](int64_t i, int64_t n) { store_n(to + i, exp(load_n(from + i, n)), n); });
}

void probe_exp2(const float* from, float* to, int64_t count) {
  for_each_vector(count,
                  [&](int64_t i, int64_t n) { store_n(to + i, exp2(load_n(from + i, n)), n); });
}

void probe_sigmoid(const float* from, float* to, int64_t count) {
  for_each_vector(count,
                  [&](int64_t i, int64_t n) { store_n(to + i, sigmoid(load_n(from + i, n)), n); });
}

#if LOWRANK_VECTOR_BYTES == 64
void probe_log(const float* from, float* to, int64_t count) {
  for_each_vector(count,
                  [&](int64_t i, int64_t n) { store_n(to + i, log(load_n(from + i, n)), n); });
}

// Of every other lane.
void probe_exp2_where(const float* from, float* to, int64_t count) {
  for_each_vector(count, [&](int64_t i, int64_t n) {
    store_n(to + i, exp2_where(0x5555, load_n(from + i, n)), n);
  });
}
#endif

}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
