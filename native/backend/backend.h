// The table of functions a backend fills in: memory, and one row per operation. This header is the
// plug-in ABI: plain structs and function pointers, a version, no exceptions. Every operation
// returns 0, or non-zero after leaving a message for `last_error`. Pointers are the device's own.
//
// Conventions
//   * Matrices are row-major; `stride` counts elements between rows. "[T, C]" is rows x columns.
//   * "Activation" matrices are f32 or bf16; all of one call have the same type unless said
//     otherwise. Accumulation is always in f32. Norm weights, biases, adapters (A, B), gradients of
//     parameters and optimizer states are f32.
//   * Unless a field says "accumulates", outputs are overwritten. Inputs and outputs must not
//     overlap unless said otherwise.
//   * An operation's result doesn't depend on the number of threads, bit for bit.
//   * Shapes are checked by native/ops before a call gets here.
//   * Operations of one device may be called from several threads; the backend runs them one after
//     the other. What two of them write to must be kept apart by who calls.
// Letters: T tokens (rows of a micro-batch), H hidden size, V vocabulary, r rank.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace lowrank {

inline constexpr uint32_t kBackendAbiVersion = 6;

// ---- Operands -----------------------------------------------------------------------------------

struct Matrix {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};

enum class Storage : uint8_t { kF32 = 0, kBF16 = 1, kF16 = 2, kNF4 = 3, kInt8 = 4 };

inline constexpr int64_t kNf4Block = 64;         // values per absmax (bitsandbytes' default)
inline constexpr int64_t kNf4NestedBlock = 256;  // absmax values per nested absmax

// A weight [rows, cols] = [out, in] of any storage type, row-major without padding.
// NF4: element e = row * cols + col stands in byte e / 2, the even element in the high nibble; its
// block is e / 64. The block's absmax is absmax[b], or with double quantization
// nested_code[absmax_codes[b]] * nested_absmax[b / 256] + nested_offset (bitsandbytes' layout).
struct Weight {
  const void* data = nullptr;
  Storage storage = Storage::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  const float* absmax = nullptr;          // NF4 without double quantization
  const uint8_t* absmax_codes = nullptr;  // NF4 with double quantization
  const float* nested_absmax = nullptr;
  const float* nested_code = nullptr;  // 256 entries
  float nested_offset = 0;
  const float* row_scale = nullptr;  // int8: value = code * row_scale[row]
};

// One adapter on rows [row_begin, row_end) of a linear op's input:
//   y += scale * (dropout(x) A^T) B^T,  A [rank, in], B [out, rank], both f32.
// d_a and d_b accumulate; null means "not trained".
struct LoraSegment {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  const float* a = nullptr;
  const float* b = nullptr;
  float* d_a = nullptr;
  float* d_b = nullptr;
  int32_t rank = 0;
  float scale = 1;
  float dropout = 0;         // probability of zeroing an element of x; kept ones are / (1 - p)
  uint64_t dropout_key = 0;  // see core/random.h; the element index is row * in + col
};

// ---- Operations ---------------------------------------------------------------------------------

// y = x W^T + bias + residual + sum over segments. x [T, in], y [T, out] (y may be f32 while x is
// bf16). residual [T, out] of y's type may be null and may be y itself. Segments ascend and don't
// overlap. xa [T, >= max rank] of x's type receives scale-free dropout(x) A^T for the backward
// pass; required when there are segments.
struct LinearForward {
  Matrix x;
  Matrix y;
  Weight weight;
  const float* bias = nullptr;
  const Matrix* residual = nullptr;
  const LoraSegment* segments = nullptr;
  int32_t segment_count = 0;
  Matrix xa;
  void* workspace = nullptr;  // linear_workspace_bytes()
  size_t workspace_bytes = 0;
};

// d_x = d_y W + adapters' share (d_x.data null: not wanted; accumulate_d_x adds to it instead).
// d_a += scale * (d_y B)^T dropout(x);  d_b += scale * d_y^T xa.
// d_weight [out, in] f32 accumulates d_y^T x; d_bias [out] accumulates the column sums of d_y.
// x may have null data when neither d_weight nor any d_a is wanted.
struct LinearBackward {
  Matrix x;
  Matrix d_y;
  Matrix d_x;
  bool accumulate_d_x = false;
  Weight weight;
  float* d_weight = nullptr;
  float* d_bias = nullptr;
  const LoraSegment* segments = nullptr;
  int32_t segment_count = 0;
  Matrix xa;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
};

// y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps) per row. rstd [rows] may be null.
// y may be x.
struct RmsNormForward {
  Matrix x;
  Matrix y;
  const float* weight = nullptr;
  float eps = 1e-6f;
  float* rstd = nullptr;
};

// d_x gets (or accumulates) the gradient; d_weight [cols] accumulates, may be null. d_x may be d_y
// when it doesn't accumulate.
struct RmsNormBackward {
  Matrix x;
  Matrix d_y;
  Matrix d_x;
  bool accumulate_d_x = false;
  const float* weight = nullptr;
  float* d_weight = nullptr;
  const float* rstd = nullptr;
};

// y = (x - mean) * rstd * weight + bias per row, rstd = 1 / sqrt(var + eps) with the biased
// variance (Ba, Kiros & Hinton, arXiv 1607.06450). bias may be null, and so may mean and rstd
// [rows]. y may be x.
struct LayerNormForward {
  Matrix x;
  Matrix y;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float eps = 1e-5f;
  float* mean = nullptr;
  float* rstd = nullptr;
};

// d_x gets (or accumulates) the gradient; d_weight and d_bias [cols] accumulate, may be null. d_x
// may be d_y when it doesn't accumulate.
struct LayerNormBackward {
  Matrix x;
  Matrix d_y;
  Matrix d_x;
  bool accumulate_d_x = false;
  const float* weight = nullptr;
  float* d_weight = nullptr;
  float* d_bias = nullptr;
  const float* mean = nullptr;
  const float* rstd = nullptr;
};

// Rotary embedding in place on x [T, heads * head_dim], rotate-half form: with h = rotary_dim / 2,
// element i < h of a head pairs with i + h. cos, sin [positions, h] f32; row positions[t] is used.
// `inverse` rotates back, which is the backward pass.
struct Rope {
  Matrix x;
  int32_t heads = 0;
  int32_t head_dim = 0;
  int32_t rotary_dim = 0;
  const int32_t* positions = nullptr;
  const float* cos = nullptr;
  const float* sin = nullptr;
  bool inverse = false;
};

enum class Activation : uint8_t { kSilu = 0, kGelu = 1, kGeluTanh = 2, kRelu = 3 };

// y = activation(gate) * up; y may be gate or up. up.data null: y = activation(gate).
struct GatedActivationForward {
  Matrix gate;
  Matrix up;
  Matrix y;
  Activation activation = Activation::kSilu;
};

// d_gate may be gate, d_up may be up. up.data null: there is no d_up either.
struct GatedActivationBackward {
  Matrix gate;
  Matrix up;
  Matrix d_y;
  Matrix d_gate;
  Matrix d_up;
  Activation activation = Activation::kSilu;
};

// Causal attention over packed sequences, grouped-query. Document d has query rows
// [q_offsets[d], q_offsets[d+1]) and key rows [k_offsets[d], k_offsets[d+1]); no row sees another
// document. With Lq query and Lk >= Lq key rows, query i sees keys j with
//   j <= i + (Lk - Lq), and j > i + (Lk - Lq) - window when window > 0.
// Training passes the same offsets twice; generation passes a longer key side (the cache).
// q, out [Tq, heads * head_dim]; k, v [Tk, kv_heads * head_dim]; lse [heads, Tq] f32, the log of
// the sum of exp(scale * q.k), may be null.
struct AttentionForward {
  Matrix q;
  Matrix k;
  Matrix v;
  Matrix out;
  float* lse = nullptr;
  const int32_t* q_offsets = nullptr;
  const int32_t* k_offsets = nullptr;
  int32_t documents = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t window = 0;
  float scale = 1;
  void* workspace = nullptr;  // attention_workspace_bytes()
  size_t workspace_bytes = 0;
};

// Flash-attention backward (Dao, arXiv 2307.08691): probabilities are recomputed from lse.
// d_q may be d_out.
struct AttentionBackward {
  AttentionForward forward;  // as in the forward pass; out and lse are inputs
  Matrix d_out;
  Matrix d_q;
  Matrix d_k;
  Matrix d_v;
};

// y[t] = weight[ids[t]].
struct EmbeddingForward {
  const int32_t* ids = nullptr;
  Weight weight;
  Matrix y;
};

// d_weight [V, H] f32 accumulates, in row order (no atomics). Rows whose id is padding_id add
// nothing, as with padding_idx of torch.nn.Embedding; -1 = there is none.
struct EmbeddingBackward {
  const int32_t* ids = nullptr;
  Matrix d_y;
  float* d_weight = nullptr;
  int32_t padding_id = -1;
};

// The fused language-model head and cross-entropy: logits = x W^T (+ bias) exist only chunk by
// chunk.
//   logprob[i] = log softmax(logits of row rows[i])[targets[i]]
//   d_x[rows[i]] = -weights[i] * d logprob[i] / d x      (every other row of d_x becomes zero)
// so with weights = w / sum(w) the implied loss is -sum(weights * logprob). d_x.data null: forward
// only. d_weight [V, H] f32 and d_bias [V] accumulate, may be null. `rows` is ascending without
// repeats, so rows without a label cost nothing. correct[i] (may be null) is 1 where the target has
// the largest logit.
struct HeadLoss {
  Matrix x;
  Matrix d_x;
  const int32_t* rows = nullptr;
  const int32_t* targets = nullptr;
  const float* weights = nullptr;
  int32_t count = 0;
  Weight weight;
  const float* bias = nullptr;
  float* d_weight = nullptr;
  float* d_bias = nullptr;
  float* logprob = nullptr;
  uint8_t* correct = nullptr;
  void* workspace = nullptr;  // head_loss_workspace_bytes(), at most 64 MB where it can be
  size_t workspace_bytes = 0;
};

// Optimizer over a list of tensors in one call. Decoupled weight decay (Loshchilov & Hutter,
// arXiv 1711.05101), bias-corrected, `step` counts from 1:
//   g = grad * (grad_scale * clip); m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2
//   p = p (1 - lr * weight_decay) - lr * m_hat / (sqrt(v_hat) + eps)
// The gradient is set to zero afterwards.
// clip = clip_scale(sqrt(*squared_norm), max_norm) of core/clip_scale.h is computed on the device,
// so that nobody waits for the norm. Where *squared_norm isn't finite nothing is written:
// parameters, states and gradients stay as they are.
struct AdamWTensor {
  float* parameter = nullptr;
  float* gradient = nullptr;
  float* m = nullptr;  // f32 states
  float* v = nullptr;
  uint8_t* m_codes = nullptr;  // 8-bit states: one code per value and one f32 absmax per 256
  uint8_t* v_codes = nullptr;  // values, bitsandbytes' dynamic maps (signed for m, unsigned v)
  float* m_absmax = nullptr;
  float* v_absmax = nullptr;
  int64_t count = 0;
  float weight_decay = 0;
  float learning_rate = 0;
};

struct AdamW {
  const AdamWTensor* tensors = nullptr;
  int32_t tensor_count = 0;
  double beta1 = 0.9;  // f64: 1 - 0.999f is off by 1e-5 of itself
  double beta2 = 0.999;
  double eps = 1e-8;
  int64_t step = 1;
  float grad_scale = 1;
  const double* squared_norm = nullptr;  // device memory, see SquaredNorm; null: clip is 1
  double max_norm = 0;                   // 0 = no clipping
  bool eight_bit = false;
};

inline constexpr int64_t kOptimizerBlock = 256;

// *result = sum of squares over all tensors, in f64, in a fixed order; NaN or infinite when any
// gradient is, and NaN when one of the `finite_count` values of `finite` isn't finite (the
// log-probabilities of a step: a loss can be bad while its gradient isn't), which add nothing to
// the sum. The lists `tensors` and `counts` lie in host memory; `finite` and `result`, as what the
// lists name, in the device's, so that AdamW can follow without the host.
struct SquaredNorm {
  const float* const* tensors = nullptr;
  const int64_t* counts = nullptr;
  int32_t tensor_count = 0;
  const float* finite = nullptr;
  int64_t finite_count = 0;
  double* result = nullptr;
};

// Converts count values between f32, bf16 and f16.
struct Cast {
  const void* from = nullptr;
  DType from_dtype = DType::kF32;
  void* to = nullptr;
  DType to_dtype = DType::kF32;
  int64_t count = 0;
};

// NF4 exactly as bitsandbytes computes it: absmax in f32 per block of 64 of the flattened tensor,
// the nearest code by its decision thresholds. absmax [ceil(count / 64)] f32.
struct QuantizeNf4 {
  const void* from = nullptr;
  DType from_dtype = DType::kF32;
  int64_t count = 0;
  uint8_t* codes = nullptr;
  float* absmax = nullptr;
};

// The second quantization, of the absmax values: offset = mean(absmax), then 8-bit dynamic codes of
// (absmax - offset) in blocks of 256. Writes nested_absmax [ceil(count / 256)] and *offset (host).
struct QuantizeAbsmax {
  const float* absmax = nullptr;
  int64_t count = 0;
  uint8_t* codes = nullptr;
  float* nested_absmax = nullptr;
  float* offset = nullptr;
};

inline constexpr float kMinInt8Absmax = 1e-36f;  // 127 over it is finite

// int8 by rows: row_scale = absmax / 127, code = x * (127 / max(absmax, kMinInt8Absmax)) rounded to
// nearest, ties to even, each operation in f32. A row that holds a value that isn't finite gets
// codes of 0 and a scale that isn't finite, so all of it becomes NaN.
struct QuantizeInt8 {
  const void* from = nullptr;  // [rows, cols] without padding
  DType from_dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int8_t* codes = nullptr;
  float* row_scale = nullptr;
};

// Writes the weight's values as f32, bf16 or f16 [rows, cols].
struct Dequantize {
  Weight weight;
  void* to = nullptr;
  DType to_dtype = DType::kF32;
};

// ---- Workspace ----------------------------------------------------------------------------------

struct LinearShape {
  int64_t tokens = 0, in = 0, out = 0;
  int32_t max_rank = 0;
  int32_t segment_count = 0;
  bool dropout = false;
  bool backward = false;
  DType activation = DType::kF32;
  Storage storage = Storage::kF32;
};
struct AttentionShape {
  int64_t query_tokens = 0, key_tokens = 0;
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  bool backward = false;
  DType activation = DType::kF32;
};
struct HeadLossShape {
  int64_t labelled = 0, hidden = 0, vocabulary = 0;
  bool backward = false;         // d_x is wanted
  bool weight_gradient = false;  // d_weight or d_bias is
  DType activation = DType::kF32;
  Storage storage = Storage::kF32;
};

// ---- The table ----------------------------------------------------------------------------------

struct DeviceOptions {
  int32_t threads = 0;        // CPU: 0 = one per physical core
  const char* isa = nullptr;  // CPU: null = best; "reference", "avx2", "avx512", ... (cpu/isa.h)
  int32_t ordinal = 0;        // CUDA: which device
};

struct DeviceInfo {
  char name[128] = {};
  char isa[32] = {};
  int32_t threads = 1;
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
  uint64_t fixed_bytes = 0;  // what the device holds for itself from open() on (packing buffers)
  char library[64] = {};     // whose products it uses beside its own, with the version; or ""
  char note[512] = {};       // one sentence on what is missing and how to get it; or ""
};

// What measure_peak measures, with every worker busy.
enum class PeakKind : uint8_t {
  kF32Products = 0,   // FLOP per second that f32 operands can reach in a product
  kBF16Products = 1,  // the same of bf16 operands with f32 sums
  kMemoryRead = 2,    // bytes per second read from memory too large for the caches
};

struct Backend {
  uint32_t abi_version;
  uint32_t struct_bytes;
  const char* name;

  int (*open)(const DeviceOptions* options, void** device, char* error, size_t error_bytes);
  void (*close)(void* device);
  const char* (*last_error)(void* device);
  int (*describe)(void* device, DeviceInfo* info);

  // 64-byte aligned, zero-filled. Positive for lack of memory, negative for any other failure.
  int (*allocate)(void* device, size_t bytes, void** pointer);
  void (*release)(void* device, void* pointer, size_t bytes);
  int (*upload)(void* device, void* to, const void* from, size_t bytes);
  int (*download)(void* device, void* to, const void* from, size_t bytes);
  int (*copy)(void* device, void* to, const void* from, size_t bytes);
  int (*fill_zero)(void* device, void* to, size_t bytes);
  int (*synchronize)(void* device);
  // Runs for about `seconds`; *rate = FLOP or bytes per second of the fastest tenth part of it.
  int (*measure_peak)(void* device, PeakKind kind, double seconds, double* rate);
  bool host_memory;  // device pointers can be read and written by the host
  // Rows that stand a multiple of so many bytes apart meet in few sets of a cache: activations get
  // a line more between theirs (row_stride() in device.h). 0: it makes no difference.
  int64_t crowded_row_bytes;

  size_t (*linear_workspace_bytes)(void* device, const LinearShape*);
  size_t (*attention_workspace_bytes)(void* device, const AttentionShape*);
  size_t (*head_loss_workspace_bytes)(void* device, const HeadLossShape*);

  int (*linear_forward)(void* device, const LinearForward*);
  int (*linear_backward)(void* device, const LinearBackward*);
  int (*rms_norm_forward)(void* device, const RmsNormForward*);
  int (*rms_norm_backward)(void* device, const RmsNormBackward*);
  int (*layer_norm_forward)(void* device, const LayerNormForward*);
  int (*layer_norm_backward)(void* device, const LayerNormBackward*);
  int (*rope)(void* device, const Rope*);
  int (*gated_activation_forward)(void* device, const GatedActivationForward*);
  int (*gated_activation_backward)(void* device, const GatedActivationBackward*);
  int (*attention_forward)(void* device, const AttentionForward*);
  int (*attention_backward)(void* device, const AttentionBackward*);
  int (*embedding_forward)(void* device, const EmbeddingForward*);
  int (*embedding_backward)(void* device, const EmbeddingBackward*);
  int (*head_loss)(void* device, const HeadLoss*);
  int (*adamw)(void* device, const AdamW*);
  int (*squared_norm)(void* device, const SquaredNorm*);
  int (*cast)(void* device, const Cast*);
  int (*quantize_nf4)(void* device, const QuantizeNf4*);
  int (*quantize_absmax)(void* device, const QuantizeAbsmax*);
  int (*quantize_int8)(void* device, const QuantizeInt8*);
  int (*dequantize)(void* device, const Dequantize*);
};

}  // namespace lowrank
