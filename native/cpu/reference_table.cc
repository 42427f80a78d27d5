// Binds the scalar references to the kernel table: double arithmetic on f32 or bf16 operands.
#include <vector>

#include "cpu/cpu_device.h"
#include "cpu/reference/adamw_8bit.h"
#include "cpu/reference/attention.h"
#include "cpu/reference/cast.h"
#include "cpu/reference/embedding.h"
#include "cpu/reference/gated_activation.h"
#include "cpu/reference/head_loss.h"
#include "cpu/reference/layer_norm.h"
#include "cpu/reference/linear.h"
#include "cpu/reference/optimizer.h"
#include "cpu/reference/rms_norm.h"
#include "cpu/reference/rope.h"

namespace lowrank::cpu {
namespace {

namespace ref = ::lowrank::reference;
using ref::view;

auto weight_reader(const Weight& weight) {
  return [&weight](int64_t row, int64_t col) {
    return static_cast<double>(ref::weight_at(weight, row, col));
  };
}

std::vector<ref::Segment<float>> segments_of(const LoraSegment* segments, int32_t count) {
  std::vector<ref::Segment<float>> result;
  for (int32_t i = 0; i < count; ++i) {
    const LoraSegment& s = segments[i];
    result.push_back({s.row_begin, s.row_end, s.a, s.b, s.d_a, s.d_b, s.rank,
                      static_cast<double>(s.scale), s.dropout, s.dropout_key});
  }
  return result;
}

void linear_forward(CpuDevice&, const LinearForward& op) {
  const auto segments = segments_of(op.segments, op.segment_count);
  ref::with_activation(op.x.dtype, [&](auto x_tag) {
    using X = typename decltype(x_tag)::Type;
    ref::with_activation(op.y.dtype, [&](auto y_tag) {
      using Y = typename decltype(y_tag)::Type;
      const auto residual = op.residual ? view<Y>(*op.residual) : ref::View<Y>{};
      ref::linear_forward<double, X, Y, float>(view<X>(op.x), view<Y>(op.y),
                                               weight_reader(op.weight), op.bias, residual,
                                               segments, view<X>(op.xa));
    });
  });
}

void linear_backward(CpuDevice&, const LinearBackward& op) {
  const auto segments = segments_of(op.segments, op.segment_count);
  ref::with_activation(op.d_y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::linear_backward<double, X, float>(
        view<X>(op.x), view<X>(op.d_y), view<X>(op.d_x), op.accumulate_d_x, op.weight.cols,
        weight_reader(op.weight), op.d_weight, op.d_bias, segments, view<X>(op.xa));
  });
}

void rms_norm_forward(CpuDevice&, const RmsNormForward& op) {
  ref::with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::rms_norm_forward<double, X, float>(view<X>(op.x), view<X>(op.y), op.weight,
                                            static_cast<double>(op.eps), op.rstd);
  });
}

void rms_norm_backward(CpuDevice&, const RmsNormBackward& op) {
  ref::with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::rms_norm_backward<double, X, float>(view<X>(op.x), view<X>(op.d_y), view<X>(op.d_x),
                                             op.accumulate_d_x, op.weight, op.d_weight, op.rstd);
  });
}

void layer_norm_forward(CpuDevice&, const LayerNormForward& op) {
  ref::with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::layer_norm_forward<double, X, float>(view<X>(op.x), view<X>(op.y), op.weight, op.bias,
                                              static_cast<double>(op.eps), op.mean, op.rstd);
  });
}

void layer_norm_backward(CpuDevice&, const LayerNormBackward& op) {
  ref::with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::layer_norm_backward<double, X, float>(view<X>(op.x), view<X>(op.d_y), view<X>(op.d_x),
                                               op.accumulate_d_x, op.weight, op.d_weight, op.d_bias,
                                               op.mean, op.rstd);
  });
}

void rope(CpuDevice&, const Rope& op) {
  ref::with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::rope<double, X>(view<X>(op.x), op.heads, op.head_dim, op.rotary_dim, op.positions, op.cos,
                         op.sin, op.inverse);
  });
}

void gated_activation_forward(CpuDevice&, const GatedActivationForward& op) {
  ref::with_activation(op.y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::gated_activation_forward<double, X>(view<X>(op.gate), view<X>(op.up), view<X>(op.y),
                                             op.activation);
  });
}

void gated_activation_backward(CpuDevice&, const GatedActivationBackward& op) {
  ref::with_activation(op.d_y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::gated_activation_backward<double, X>(view<X>(op.gate), view<X>(op.up), view<X>(op.d_y),
                                              view<X>(op.d_gate), view<X>(op.d_up), op.activation);
  });
}

ref::AttentionLayout layout_of(const AttentionForward& op) {
  return {op.q_offsets, op.k_offsets, op.documents, op.heads,
          op.kv_heads,  op.head_dim,  op.window,    static_cast<double>(op.scale)};
}

void attention_forward(CpuDevice&, const AttentionForward& op) {
  ref::with_activation(op.q.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::attention_forward<double, X, float>(layout_of(op), view<X>(op.q), view<X>(op.k),
                                             view<X>(op.v), view<X>(op.out), op.lse);
  });
}

void attention_backward(CpuDevice&, const AttentionBackward& op) {
  const AttentionForward& forward = op.forward;
  ref::with_activation(forward.q.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::attention_backward<double, X, float>(layout_of(forward), view<X>(forward.q),
                                              view<X>(forward.k), view<X>(forward.v),
                                              view<X>(forward.out), forward.lse, view<X>(op.d_out),
                                              view<X>(op.d_q), view<X>(op.d_k), view<X>(op.d_v));
  });
}

void embedding_forward(CpuDevice&, const EmbeddingForward& op) {
  ref::with_activation(op.y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::embedding_forward<double, X>(op.ids, weight_reader(op.weight), view<X>(op.y));
  });
}

void embedding_backward(CpuDevice&, const EmbeddingBackward& op) {
  ref::with_activation(op.d_y.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::embedding_backward<double, X, float>(op.ids, view<X>(op.d_y), op.d_weight, op.padding_id);
  });
}

void head_loss(CpuDevice&, const HeadLoss& op) {
  ref::with_activation(op.x.dtype, [&](auto tag) {
    using X = typename decltype(tag)::Type;
    ref::head_loss<double, X, float>(view<X>(op.x), view<X>(op.d_x), op.rows, op.targets,
                                     op.weights, op.count, weight_reader(op.weight), op.weight.rows,
                                     op.bias, {op.d_weight, op.d_bias, op.logprob, op.correct});
  });
}

void adamw_f32(CpuDevice&, const AdamW& op) {
  for (int32_t i = 0; i < op.tensor_count; ++i) {
    const AdamWTensor& tensor = op.tensors[i];
    ref::adamw<double, float>(tensor.parameter, tensor.gradient, tensor.m, tensor.v, tensor.count,
                              static_cast<double>(tensor.learning_rate),
                              static_cast<double>(tensor.weight_decay), op);
  }
}

void adamw_8bit(CpuDevice&, const AdamW& op) { ref::adamw_8bit(op); }

void squared_norm(CpuDevice&, const SquaredNorm& op) {
  *op.result = ref::squared_norm(op.tensors, op.counts, op.tensor_count);
}

void cast(CpuDevice&, const Cast& op) {
  ref::with_float_type(op.from_dtype, [&](auto from_tag) {
    using From = typename decltype(from_tag)::Type;
    ref::with_float_type(op.to_dtype, [&](auto to_tag) {
      using To = typename decltype(to_tag)::Type;
      ref::cast(static_cast<const From*>(op.from), static_cast<To*>(op.to), op.count);
    });
  });
}

void quantize_nf4(CpuDevice&, const QuantizeNf4& op) { ref::quantize_nf4(op); }
void quantize_absmax(CpuDevice&, const QuantizeAbsmax& op) { ref::quantize_absmax(op); }
void quantize_int8(CpuDevice&, const QuantizeInt8& op) { ref::quantize_int8(op); }
void dequantize(CpuDevice&, const Dequantize& op) { ref::dequantize(op); }

// One chain: what scalar code reaches when every product waits for the last.
int64_t multiply_loop(int64_t rounds) {
  volatile float factor = 0.5f;
  const float x = factor;
  float sum = 0;
  for (int64_t i = 0; i < rounds * 64; ++i) sum = sum * x + x;
  factor = sum;
  return rounds * 64 * 2;
}

void read_loop(const void* from, size_t bytes) {
  const uint64_t* at = static_cast<const uint64_t*>(from);
  uint64_t bits = 0;
  for (size_t i = 0; i < bytes / 8; ++i) bits |= at[i];
  volatile uint64_t sink = bits;
  (void)sink;
}

size_t no_linear_workspace(const CpuDevice&, const LinearShape&) { return 0; }
size_t no_attention_workspace(const CpuDevice&, const AttentionShape&) { return 0; }
size_t no_head_loss_workspace(const CpuDevice&, const HeadLossShape&) { return 0; }

}  // namespace

KernelTable reference_table() {
  KernelTable table;
  table.linear_workspace_bytes = no_linear_workspace;
  table.attention_workspace_bytes = no_attention_workspace;
  table.head_loss_workspace_bytes = no_head_loss_workspace;
  table.linear_forward = linear_forward;
  table.linear_backward = linear_backward;
  table.rms_norm_forward = rms_norm_forward;
  table.rms_norm_backward = rms_norm_backward;
  table.layer_norm_forward = layer_norm_forward;
  table.layer_norm_backward = layer_norm_backward;
  table.rope = rope;
  table.gated_activation_forward = gated_activation_forward;
  table.gated_activation_backward = gated_activation_backward;
  table.attention_forward = attention_forward;
  table.attention_backward = attention_backward;
  table.embedding_forward = embedding_forward;
  table.embedding_backward = embedding_backward;
  table.head_loss = head_loss;
  table.adamw_f32 = adamw_f32;
  table.adamw_8bit = adamw_8bit;
  table.squared_norm = squared_norm;
  table.cast = cast;
  table.quantize_nf4 = quantize_nf4;
  table.quantize_absmax = quantize_absmax;
  table.quantize_int8 = quantize_int8;
  table.dequantize = dequantize;
  table.f32_product_loop = multiply_loop;
  table.bf16_product_loop = multiply_loop;
  table.read_loop = read_loop;
  return table;
}

}  // namespace lowrank::cpu
