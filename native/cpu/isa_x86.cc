// x86-64: detection by cpuid and xgetbv (Intel SDM vol. 1, chapters 13 and 18), and the kernels.
#include <cpuid.h>

#include <cstring>

#include "cpu/isa.h"
#include "cpu/isa/kernels.h"

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace lowrank::cpu {
namespace {

struct CpuidLeaf {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidLeaf cpuid(unsigned leaf, unsigned subleaf = 0) {
  CpuidLeaf result;
  __get_cpuid_count(leaf, subleaf, &result.eax, &result.ebx, &result.ecx, &result.edx);
  return result;
}

bool bit(unsigned word, int index) { return (word >> index) & 1u; }

uint64_t enabled_state() {
  if (!bit(cpuid(1).ecx, 27)) return 0;  // OSXSAVE: xgetbv exists
  unsigned low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux gives a process the 8 KiB of tile registers only after it asked for them (since 5.16).
[[maybe_unused]] bool permit_amx() {
#ifdef __linux__
  constexpr long kArchRequestXcompPermission = 0x1023;
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kArchRequestXcompPermission, kTileData) == 0;
#else
  return false;
#endif
}

Isa highest_isa() {
  const uint64_t state = enabled_state();
  const CpuidLeaf basic = cpuid(1), extended = cpuid(7, 0);
  const bool avx_state = (state & 0x6) == 0x6;
  const bool avx2 = avx_state && bit(extended.ebx, 5) && bit(extended.ebx, 8) &&
                    bit(basic.ecx, 12) && bit(basic.ecx, 29);
  if (!avx2) return Isa::kReference;
  const bool avx512 = (state & 0xe6) == 0xe6 && bit(extended.ebx, 16) && bit(extended.ebx, 17) &&
                      bit(extended.ebx, 30) && bit(extended.ebx, 31);
  if (!avx512) return Isa::kAvx2;
#ifdef LOWRANK_TIMED_TILES
  return Isa::kAmx;
#else
  if (!bit(cpuid(7, 1).eax, 5)) return Isa::kAvx512;
  const bool amx = (state & 0x60000) == 0x60000 && bit(extended.edx, 22) && bit(extended.edx, 24);
  return amx && permit_amx() ? Isa::kAmx : Isa::kAvx512BF16;
#endif
}

bool is_amd() {
  const CpuidLeaf vendor = cpuid(0);
  return vendor.ebx == signature_AMD_ebx && vendor.ecx == signature_AMD_ecx;
}

// As processors are numbered (AMD's APM vol. 3, CPUID function 1).
unsigned family() {
  const unsigned signature = cpuid(1).eax, base = signature >> 8 & 15;
  return base == 15 ? base + (signature >> 20 & 255) : base;
}

// AMD's processors multiply pairs of bf16 at twice the rate of f32 (seen on Zen 4 and 5); Intel's,
// which have tiles for that, at half of it (docs/performance.md).
bool multiplies_pairs_fast() { return is_amd(); }

Isa detected() {
  static const Isa isa = highest_isa();
  return isa;
}

}  // namespace

Isa best_isa() {
  const Isa isa = detected();
  return isa == Isa::kAvx512BF16 && !multiplies_pairs_fast() ? Isa::kAvx512 : isa;
}

bool isa_available(Isa isa) { return isa != Isa::kNeon && isa <= detected(); }

// Zen 4 (family 25) reads NF4 weights at 32 GB/s instead of 25 so; Zen 5 at 29 instead of 39
// (docs/performance.md).
bool asks_second_cache() { return is_amd() && family() == 25; }

std::string processor_name() {
  if (cpuid(0x80000000u).eax < 0x80000004u) return {};
  char name[49] = {};
  for (unsigned i = 0; i < 3; ++i) {
    const CpuidLeaf part = cpuid(0x80000002u + i);
    std::memcpy(name + 16 * i, &part, 16);
  }
#ifdef LOWRANK_TIMED_TILES
  return std::string(name) + " (timed tiles: wrong results)";
#else
  return name;
#endif
}

void register_kernels(Isa isa, KernelTable& table) {
  if (isa >= Isa::kAvx2) {
    avx2::register_elementwise(table);
    avx2::register_gemm(table);
    avx2::register_attention(table);
    avx2::register_quantization(table);
  }
  if (isa >= Isa::kAvx512) {
    avx512::register_elementwise(table);
    avx512::register_gemm(table);
    avx512::register_attention(table);
    avx512::register_quantization(table);
  }
  if (isa >= Isa::kAvx512BF16) {
    avx512_bf16::register_elementwise(table);
    avx512_bf16::register_gemm(table);
    avx512_bf16::register_attention(table);
  }
  if (isa >= Isa::kAmx) {
    amx::register_gemm(table);
    amx::register_attention(table);
  }
}

}  // namespace lowrank::cpu
