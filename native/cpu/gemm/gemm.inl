// The products of the CPU backend, compiled once per instruction set (cpu/isa/README.md): one
// blocked product over operands of any storage type, and the linear layer and the head made of it.
//
//   source.inl      reading a run of elements of any storage type as f32
//   ahead.inl       asking for memory ahead of its use
//   tile.inl        the product of one tile on the vector units: of f32, or of pairs of bf16
//   policy_f32.inl  f32 panels and the policy over them
//   pairs.inl       pairs of bf16, for these products and attention
//   pack_bf16.inl   packing operands as panels of them
//   unit_bf16.inl   vectors of such pairs (AVX512_BF16)
//   panels_bf16.inl the product of bf16 panels on them, for attention
//   policy_bf16.inl the policy over them for these products
//   tiles_amx.inl   the tile instructions; tests put a scalar model in their place
//   panels_amx.inl  the product of bf16 panels in tiles, for these products and attention
//   policy_amx.inl  the policy over them
//   epilogue.inl    what is done with a product's sums on their way to the output
//   product.inl     operands, tiles and tasks of a blocked product
//   product_blocks.inl   blocking for the first cache
//   product_strips.inl   blocking for both caches
//   thin.inl        products with few rows over values that are read where they stand
//   thin_vectors.inl thin_amx.inl   on the vector units, in tiles
//   few_rows.inl    products with a handful of rows (generation), without packing
//   few_rows_unit.inl few_rows_x.inl few_rows_nf4.inl   taking words apart, x, an NF4 weight
//   linear*.inl head_loss*.inl   the operations
//
// An output element is always computed by one task, in one order of summation that depends on the
// shapes alone, so results are the same bits for any number of threads.
#include "core/dtype.h"
#include "core/nf4.h"
#include "core/random.h"
#include "cpu/cpu_device.h"
#include "cpu/isa/kernels.h"
#include "cpu/simd.h"
#include "cpu/simd_math.h"
#include "cpu/simd_transpose.h"

namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

LOWRANK_INLINE constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
LOWRANK_INLINE constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
LOWRANK_INLINE constexpr int64_t round_up(int64_t value, int64_t to) {
  return (value + to - 1) / to * to;
}

// The size of the blocks that a depth is cut into, at most `most` (a multiple of 32) each: all
// alike, because a short one would cost a pass over the sums for little.
LOWRANK_INLINE constexpr int64_t depth_block(int64_t depth, int64_t most) {
  const int64_t blocks = larger(1, (depth + most - 1) / most);
  return round_up((depth + blocks - 1) / blocks, 32);
}

#if defined(LOWRANK_AMX) || defined(LOWRANK_BF16_UNIT)
#define LOWRANK_BF16_PRODUCTS  // of bf16 activations alone
#endif

// Each file needs those before it.
// clang-format off
#include "cpu/gemm/source.inl"
#include "cpu/gemm/ahead.inl"
#include "cpu/gemm/tile.inl"
#ifdef LOWRANK_BF16_PRODUCTS
#include "cpu/gemm/pairs.inl"
#include "cpu/gemm/pack_bf16.inl"
#endif
#if defined(LOWRANK_AMX)
#ifdef LOWRANK_TILES
#include LOWRANK_TILES
#else
#include "cpu/gemm/tiles_amx.inl"
#endif
#include "cpu/gemm/panels_amx.inl"
#include "cpu/gemm/policy_amx.inl"
using Products = AmxPolicy;
#elif defined(LOWRANK_BF16_UNIT)
#include "cpu/gemm/unit_bf16.inl"
#include "cpu/gemm/policy_bf16.inl"
using Products = BF16Policy;
#else
#include "cpu/gemm/policy_f32.inl"
using Products = F32Policy;
#endif
#include "cpu/gemm/epilogue.inl"
#include "cpu/gemm/product.inl"
#include "cpu/gemm/product_blocks.inl"
#include "cpu/gemm/thin.inl"
#ifdef LOWRANK_AMX
#include "cpu/gemm/thin_amx.inl"
#else
#include "cpu/gemm/thin_vectors.inl"
#endif
#include "cpu/gemm/product_strips.inl"
#include "cpu/gemm/few_rows_unit.inl"
#include "cpu/gemm/few_rows_x.inl"
#include "cpu/gemm/few_rows_nf4.inl"
#include "cpu/gemm/few_rows.inl"
#include "cpu/gemm/linear.inl"
#include "cpu/gemm/linear_forward.inl"
#include "cpu/gemm/linear_backward.inl"
#include "cpu/gemm/head_loss_frozen.inl"
#include "cpu/gemm/head_loss.inl"
// clang-format on

#ifdef LOWRANK_AMX
struct alignas(64) Halves {
  uint16_t elements[kTile];
  Halves() {
    for (uint16_t& element : elements) element = 0x3f00;  // 0.5
  }
};
// Tile products with every operand in a tile (cpu/kernels/peak.inl). Returns the FLOPs done.
int64_t tile_loop(int64_t rounds) {
  const TileScope scope;
  (void)scope;
  // Zeros would be multiplied faster than any data: they take less power, so the clock is higher.
  static const Halves halves;
  TileProduct<2, 2>::begin(nullptr, 0);
  LOWRANK_TILE_LOAD(4, halves.elements, 64);
  LOWRANK_TILE_LOAD(5, halves.elements, 64);
  LOWRANK_TILE_LOAD(6, halves.elements, 64);
  LOWRANK_TILE_LOAD(7, halves.elements, 64);
  for (int64_t i = 0; i < rounds * 16; ++i) {
    LOWRANK_TILE_MULTIPLY(0, 4, 6);
    LOWRANK_TILE_MULTIPLY(1, 4, 7);
    LOWRANK_TILE_MULTIPLY(2, 5, 6);
    LOWRANK_TILE_MULTIPLY(3, 5, 7);
  }
  return rounds * 16 * 4 * 2 * 16 * 16 * 32;
}
#endif

}  // namespace

void register_gemm(KernelTable& table) {
#ifdef LOWRANK_BF16_PRODUCTS
  // f32 activations keep the precision of f32 products, which the level below has.
  static const KernelTable below = [] {
    KernelTable kernels;
    avx512::register_gemm(kernels);
    return kernels;
  }();
  table.linear_workspace_bytes = [](const CpuDevice& device, const LinearShape& shape) {
    return shape.activation == DType::kBF16 ? linear_workspace<Products>(shape)
                                            : below.linear_workspace_bytes(device, shape);
  };
  table.head_loss_workspace_bytes = [](const CpuDevice& device, const HeadLossShape& shape) {
    return shape.activation == DType::kBF16 ? head_loss_workspace<Products>(shape)
                                            : below.head_loss_workspace_bytes(device, shape);
  };
  table.linear_forward = [](CpuDevice& device, const LinearForward& op) {
    op.x.dtype == DType::kBF16 ? linear_forward<Products>(device, op)
                               : below.linear_forward(device, op);
  };
  table.linear_backward = [](CpuDevice& device, const LinearBackward& op) {
    op.d_y.dtype == DType::kBF16 ? linear_backward<Products>(device, op)
                                 : below.linear_backward(device, op);
  };
  table.head_loss = [](CpuDevice& device, const HeadLoss& op) {
    op.x.dtype == DType::kBF16 ? head_loss<Products>(device, op) : below.head_loss(device, op);
  };
#else
  table.linear_workspace_bytes = [](const CpuDevice&, const LinearShape& shape) {
    return linear_workspace<Products>(shape);
  };
  table.head_loss_workspace_bytes = [](const CpuDevice&, const HeadLossShape& shape) {
    return head_loss_workspace<Products>(shape);
  };
  table.linear_forward = linear_forward<Products>;
  table.linear_backward = linear_backward<Products>;
  table.head_loss = head_loss<Products>;
#endif
#ifdef LOWRANK_AMX
  table.bf16_product_loop = tile_loop;
#endif
}

}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
