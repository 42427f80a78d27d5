// activation(gate) * up and its gradient (cpu/reference/gated_activation.h).
namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE {
namespace {

struct ActivationValue {
  F32 value;
  F32 slope;
};

template <Activation kActivation>
LOWRANK_INLINE ActivationValue activate(F32 x) {
  if constexpr (kActivation == Activation::kSilu) {
    const F32 s = sigmoid(x);
    return {x * s, s * fma(x, 1.0f - s, splat(1))};
  } else if constexpr (kActivation == Activation::kGeluTanh) {
    // (1 + tanh(u)) / 2 is sigmoid(2u), which doesn't cancel for negative u.
    constexpr float kSlope = 1.5957691216057308f;  // 2 sqrt(2 / pi)
    constexpr float kCubic = 0.044715f;
    const F32 square = x * x;
    const F32 s = sigmoid(kSlope * x * fma(splat(kCubic), square, splat(1)));
    const F32 d_inner = kSlope * fma(splat(3 * kCubic), square, splat(1));
    return {x * s, s * fma(x * (1.0f - s), d_inner, splat(1))};
  } else if constexpr (kActivation == Activation::kGelu) {
    // erfc by the C library, lane by lane: no model family here uses it in training.
    float lanes[kLanes];
    store(lanes, x);
    for (int i = 0; i < kLanes; ++i) lanes[i] = 0.5f * __builtin_erfcf(lanes[i] * -0.70710678f);
    const F32 cdf = load(lanes);
    const F32 density = 0.39894228f * exp(-0.5f * x * x);
    return {x * cdf, fma(x, density, cdf)};
  } else {
    return {x > 0.0f ? x : F32{}, x > 0.0f ? splat(1) : F32{}};
  }
}

template <typename X, Activation kActivation>
void gated_forward_rows(const GatedActivationForward& op, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const X* gate = row_of<X>(op.gate, t);
    const X* up = op.up.data ? row_of<X>(op.up, t) : nullptr;
    X* y = row_of<X>(op.y, t);
    for_each_vector(op.y.cols, [&](int64_t i, int64_t n) {
      const F32 value = activate<kActivation>(load_n(gate + i, n)).value;
      store_n(y + i, up ? value * load_n(up + i, n) : value, n);
    });
  }
}

template <typename X, Activation kActivation>
void gated_backward_rows(const GatedActivationBackward& op, int64_t begin, int64_t end) {
  for (int64_t t = begin; t < end; ++t) {
    const X* gate = row_of<X>(op.gate, t);
    const X* up = op.up.data ? row_of<X>(op.up, t) : nullptr;
    const X* d_y = row_of<X>(op.d_y, t);
    X* d_gate = row_of<X>(op.d_gate, t);
    X* d_up = up ? row_of<X>(op.d_up, t) : nullptr;
    for_each_vector(op.d_y.cols, [&](int64_t i, int64_t n) {
      const ActivationValue a = activate<kActivation>(load_n(gate + i, n));
      const F32 gradient = load_n(d_y + i, n), factor = up ? load_n(up + i, n) : splat(1);
      store_n(d_gate + i, gradient * factor * a.slope, n);
      if (up) store_n(d_up + i, gradient * a.value, n);
    });
  }
}

// The row function for a type and an activation.
template <typename Op, template <typename, Activation> class Rows>
LOWRANK_INLINE auto select_rows(DType dtype, Activation activation) {
  using F = void (*)(const Op&, int64_t, int64_t);
  constexpr F kTable[2][4] = {
      {Rows<float, Activation::kSilu>::run, Rows<float, Activation::kGelu>::run,
       Rows<float, Activation::kGeluTanh>::run, Rows<float, Activation::kRelu>::run},
      {Rows<BF16, Activation::kSilu>::run, Rows<BF16, Activation::kGelu>::run,
       Rows<BF16, Activation::kGeluTanh>::run, Rows<BF16, Activation::kRelu>::run}};
  return kTable[dtype == DType::kBF16][static_cast<int>(activation)];
}

template <typename X, Activation kActivation>
struct ForwardRows {
  static void run(const GatedActivationForward& op, int64_t begin, int64_t end) {
    gated_forward_rows<X, kActivation>(op, begin, end);
  }
};
template <typename X, Activation kActivation>
struct BackwardRows {
  static void run(const GatedActivationBackward& op, int64_t begin, int64_t end) {
    gated_backward_rows<X, kActivation>(op, begin, end);
  }
};

void gated_activation_forward(CpuDevice& device, const GatedActivationForward& op) {
  const auto rows = select_rows<GatedActivationForward, ForwardRows>(op.y.dtype, op.activation);
  parallel_rows(device, op.y.rows, op.y.cols,
                [&](int64_t begin, int64_t end) { rows(op, begin, end); });
}

void gated_activation_backward(CpuDevice& device, const GatedActivationBackward& op) {
  const auto rows = select_rows<GatedActivationBackward, BackwardRows>(op.d_y.dtype, op.activation);
  parallel_rows(device, op.d_y.rows, op.d_y.cols,
                [&](int64_t begin, int64_t end) { rows(op, begin, end); });
}

}  // namespace
}  // namespace lowrank::cpu::LOWRANK_ISA_NAMESPACE
