// The engine's operations one by one, for people who measure or check kernels. Each call copies its
// arrays to the engine, runs there on a thread of its own, and copies the results back; `repeat` runs
// the operation again that many times and reports the seconds of each of these runs, without copying.
//
// Matrices are row-major. Half types travel as their raw bits in a Uint16Array. Letters: T rows
// (tokens), H hidden size, V vocabulary, r rank. The exact arithmetic of every operation stands in
// native/backend/backend.h.
import type { NativeDeviceOptions } from './native/addon.js';
import { call } from './native/call.js';
import { loadAddon } from './native/load_addon.js';

export type FloatType = 'f32' | 'bf16' | 'f16';

/** [rows, cols]; a Uint16Array is bf16 unless `dtype` says f16. */
export interface Matrix {
  data: Float32Array | Uint16Array;
  dtype?: FloatType;
  rows: number;
  cols: number;
}

/** A weight [out, in] as it is stored. */
export interface Weight {
  storage: 'f32' | 'bf16' | 'f16' | 'nf4' | 'int8';
  rows: number;
  cols: number;
  /** nf4: two values per byte, the even element in the high half. */
  data: Float32Array | Uint16Array | Uint8Array | Int8Array;
  /** nf4: one per 64 values ... */
  absmax?: Float32Array;
  /** ... or, with double quantization, its codes, one nested absmax per 256 of them, and an offset. */
  absmaxCodes?: Uint8Array;
  nestedAbsmax?: Float32Array;
  nestedOffset?: number;
  /** int8: value = code * rowScale[row]. */
  rowScale?: Float32Array;
}

/** y += scale * (dropout(x) Aᵀ) Bᵀ on rows [rowBegin, rowEnd); a [rank, in], b [out, rank]. */
export interface LoraSegment {
  a: Float32Array;
  b: Float32Array;
  rank: number;
  scale: number;
  /** Default: all rows. */
  rowBegin?: number;
  rowEnd?: number;
  dropout?: number;
  dropoutKey?: number;
}

export interface KernelOptions {
  /** "cpu", "cuda", "cuda:N" or "auto" (the default). */
  device?: string;
  threads?: number;
  isa?: string;
  /** Timed runs after the one that gives the results; default 0. */
  repeat?: number;
}

export interface Timed {
  /** Seconds of each timed run. */
  seconds: Float64Array;
}

type Raw = Record<string, ArrayBufferView | number>;

async function run(name: string, args: object, options: KernelOptions): Promise<Raw & Timed> {
  const { repeat, device = 'auto', threads, isa } = options;
  const where: NativeDeviceOptions = { device, threads, isa };
  const result = await call(() => loadAddon().kernels.run(where, name, { ...args, repeat }));
  return result as Raw & Timed;
}

function matrixLike(data: unknown, like: Matrix, rows: number, cols: number): Matrix {
  const half = data instanceof Uint16Array;
  return { data: data as Matrix['data'], dtype: half ? (like.dtype ?? 'bf16') : 'f32', rows, cols };
}

/** Names of the operations that can be run. */
export function kernelNames(): string[] {
  return loadAddon().kernels.names();
}

// ---- Linear -------------------------------------------------------------------------------------

/**
 * y [T, out] = x [T, in] Wᵀ + bias + residual + adapters. `xa` [T, largest rank] is what the backward
 * pass needs; absent without adapters.
 */
export async function linearForward(
  args: {
    x: Matrix;
    weight: Weight;
    bias?: Float32Array;
    residual?: Matrix;
    lora?: LoraSegment[];
  },
  options: KernelOptions = {},
): Promise<{ y: Matrix; xa?: Matrix } & Timed> {
  const { x, weight, lora = [] } = args;
  const { y, xa, seconds } = await run('linear_forward', args, options);
  const rank = Math.max(0, ...lora.map((segment) => segment.rank));
  return {
    y: matrixLike(y, x, x.rows, weight.rows),
    ...(xa ? { xa: matrixLike(xa, x, x.rows, rank) } : {}),
    seconds,
  };
}

/**
 * dX [T, in] = dY W + the adapters' share; dA and dB of each adapter; with `weightGradient` dWeight
 * [out, in] and dBias [out]. `x` is needed for adapters and the weight gradient, `xa` for adapters.
 */
export async function linearBackward(
  args: {
    dY: Matrix;
    weight: Weight;
    x?: Matrix;
    xa?: Matrix;
    lora?: LoraSegment[];
    weightGradient?: boolean;
  },
  options: KernelOptions = {},
): Promise<
  {
    dX: Matrix;
    lora: { dA: Float32Array; dB: Float32Array }[];
    dWeight?: Float32Array;
    dBias?: Float32Array;
  } & Timed
> {
  const { dY, weight, lora = [] } = args;
  const raw = await run('linear_backward', args, options);
  return {
    dX: matrixLike(raw.d_x, dY, dY.rows, weight.cols),
    lora: lora.map((_, i) => ({
      dA: raw[`d_a_${i}`] as Float32Array,
      dB: raw[`d_b_${i}`] as Float32Array,
    })),
    dWeight: raw.d_weight as Float32Array | undefined,
    dBias: raw.d_bias as Float32Array | undefined,
    seconds: raw.seconds,
  };
}

/** y [T, H] = rows `ids` of the weight [V, H], as f32 or bf16. */
export async function embeddingForward(
  args: { ids: Int32Array; weight: Weight; dtype?: 'f32' | 'bf16' },
  options: KernelOptions = {},
): Promise<{ y: Matrix } & Timed> {
  const { y, seconds } = await run('embedding_forward', args, options);
  const { ids, weight, dtype = 'f32' } = args;
  const data = y as Matrix['data'];
  return { y: { data, dtype, rows: ids.length, cols: weight.cols }, seconds };
}

/** dWeight [V, H]: row v is the sum of dY's rows whose id is v. */
export async function embeddingBackward(
  args: { ids: Int32Array; dY: Matrix; vocabulary: number },
  options: KernelOptions = {},
): Promise<{ dWeight: Float32Array } & Timed> {
  const { d_weight, seconds } = await run('embedding_backward', args, options);
  return { dWeight: d_weight as Float32Array, seconds };
}

/**
 * The fused head and cross-entropy over the labelled rows of x [T, H]: logprob[i] and correct[i] of
 * targets[i] at row rows[i] (ascending). With `weights` also dX [T, H] of -sum(weights * logprob),
 * and with `weightGradient` dWeight [V, H].
 */
export async function headLoss(
  args: {
    x: Matrix;
    weight: Weight;
    rows: Int32Array;
    targets: Int32Array;
    weights?: Float32Array;
    bias?: Float32Array;
    weightGradient?: boolean;
  },
  options: KernelOptions = {},
): Promise<
  { logprob: Float32Array; correct: Uint8Array; dX?: Matrix; dWeight?: Float32Array } & Timed
> {
  const { x } = args;
  const raw = await run('head_loss', args, options);
  return {
    logprob: raw.logprob as Float32Array,
    correct: raw.correct as Uint8Array,
    ...(raw.d_x ? { dX: matrixLike(raw.d_x, x, x.rows, x.cols) } : {}),
    dWeight: raw.d_weight as Float32Array | undefined,
    seconds: raw.seconds,
  };
}

// ---- Element by element -------------------------------------------------------------------------

/** y = x * rstd * weight, rstd [T] = 1 / sqrt(mean(x²) + eps) per row; weight [H]. */
export async function rmsNormForward(
  args: { x: Matrix; weight: Float32Array; eps: number },
  options: KernelOptions = {},
): Promise<{ y: Matrix; rstd: Float32Array } & Timed> {
  const { x } = args;
  const { y, rstd, seconds } = await run('rms_norm_forward', args, options);
  return { y: matrixLike(y, x, x.rows, x.cols), rstd: rstd as Float32Array, seconds };
}

export async function rmsNormBackward(
  args: { x: Matrix; dY: Matrix; weight: Float32Array; rstd: Float32Array },
  options: KernelOptions = {},
): Promise<{ dX: Matrix; dWeight: Float32Array } & Timed> {
  const { x } = args;
  const { d_x, d_weight, seconds } = await run('rms_norm_backward', args, options);
  return { dX: matrixLike(d_x, x, x.rows, x.cols), dWeight: d_weight as Float32Array, seconds };
}

/**
 * Rotary embedding of x [T, heads * headDim], rotate-half; cos and sin [positions, rotaryDim / 2].
 * `inverse` rotates back, which is the backward pass. rotaryDim defaults to headDim.
 */
export async function rope(
  args: {
    x: Matrix;
    heads: number;
    headDim: number;
    rotaryDim?: number;
    positions: Int32Array;
    cos: Float32Array;
    sin: Float32Array;
    inverse?: boolean;
  },
  options: KernelOptions = {},
): Promise<{ y: Matrix } & Timed> {
  const { x } = args;
  const { y, seconds } = await run('rope', args, options);
  return { y: matrixLike(y, x, x.rows, x.cols), seconds };
}

export type Activation = 'silu' | 'gelu' | 'gelu_tanh' | 'relu';

/** y = activation(gate) * up; silu unless said otherwise. */
export async function gatedActivationForward(
  args: { gate: Matrix; up: Matrix; activation?: Activation },
  options: KernelOptions = {},
): Promise<{ y: Matrix } & Timed> {
  const { gate } = args;
  const { y, seconds } = await run('gated_activation_forward', args, options);
  return { y: matrixLike(y, gate, gate.rows, gate.cols), seconds };
}

export async function gatedActivationBackward(
  args: { gate: Matrix; up: Matrix; dY: Matrix; activation?: Activation },
  options: KernelOptions = {},
): Promise<{ dGate: Matrix; dUp: Matrix } & Timed> {
  const { gate } = args;
  const { d_gate, d_up, seconds } = await run('gated_activation_backward', args, options);
  const { rows, cols } = gate;
  return {
    dGate: matrixLike(d_gate, gate, rows, cols),
    dUp: matrixLike(d_up, gate, rows, cols),
    seconds,
  };
}

// ---- Attention ----------------------------------------------------------------------------------

export interface AttentionArguments {
  /** [Tq, heads * headDim] */
  q: Matrix;
  /** [Tk, kvHeads * headDim] */
  k: Matrix;
  v: Matrix;
  /** Row ranges of the documents, documents + 1 offsets; kOffsets defaults to qOffsets. */
  qOffsets: Int32Array;
  kOffsets?: Int32Array;
  heads: number;
  kvHeads: number;
  headDim: number;
  /** Keys a query sees, itself included; 0 = all before it. */
  window?: number;
  /** Usually 1 / sqrt(headDim). */
  scale: number;
}

/** Causal attention inside each document; lse [heads, Tq] is the log of the sum of exponentials. */
export async function attentionForward(
  args: AttentionArguments,
  options: KernelOptions = {},
): Promise<{ out: Matrix; lse: Float32Array } & Timed> {
  const { q } = args;
  const { out, lse, seconds } = await run('attention_forward', args, options);
  return { out: matrixLike(out, q, q.rows, q.cols), lse: lse as Float32Array, seconds };
}

/** `out` and `lse` are the forward pass's. */
export async function attentionBackward(
  args: AttentionArguments & { out: Matrix; lse: Float32Array; dOut: Matrix },
  options: KernelOptions = {},
): Promise<{ dQ: Matrix; dK: Matrix; dV: Matrix } & Timed> {
  const { q, k } = args;
  const { d_q, d_k, d_v, seconds } = await run('attention_backward', args, options);
  return {
    dQ: matrixLike(d_q, q, q.rows, q.cols),
    dK: matrixLike(d_k, k, k.rows, k.cols),
    dV: matrixLike(d_v, k, k.rows, k.cols),
    seconds,
  };
}

// ---- Optimizer and number formats ---------------------------------------------------------------

export interface AdamWArguments {
  parameter: Float32Array;
  gradient: Float32Array;
  learningRate: number;
  weightDecay: number;
  beta1: number;
  beta2: number;
  eps: number;
  /** From 1. */
  step: number;
  /** The gradient is multiplied by this first (clipping); default 1. */
  gradScale?: number;
}

/** AdamW with f32 states; returns the new parameter and states. */
export async function adamw(
  args: AdamWArguments & { m: Float32Array; v: Float32Array },
  options: KernelOptions = {},
): Promise<{ parameter: Float32Array; m: Float32Array; v: Float32Array } & Timed> {
  const { parameter, m, v, seconds } = await run('adamw', args, options);
  return {
    parameter: parameter as Float32Array,
    m: m as Float32Array,
    v: v as Float32Array,
    seconds,
  };
}

/** 8-bit states of AdamW: one code per value, one absmax per 256. */
export interface AdamW8BitStates {
  mCodes: Uint8Array;
  vCodes: Uint8Array;
  mAbsmax: Float32Array;
  vAbsmax: Float32Array;
}

export async function adamw8Bit(
  args: AdamWArguments & AdamW8BitStates,
  options: KernelOptions = {},
): Promise<{ parameter: Float32Array } & AdamW8BitStates & Timed> {
  const raw = await run('adamw', args, options);
  return {
    parameter: raw.parameter as Float32Array,
    mCodes: raw.m_codes as Uint8Array,
    vCodes: raw.v_codes as Uint8Array,
    mAbsmax: raw.m_absmax as Float32Array,
    vAbsmax: raw.v_absmax as Float32Array,
    seconds: raw.seconds,
  };
}

/** Sum of squares, in f64 and in a fixed order. */
export async function squaredNorm(
  args: { x: Float32Array },
  options: KernelOptions = {},
): Promise<{ result: number } & Timed> {
  const { result, seconds } = await run('squared_norm', args, options);
  return { result: result as number, seconds };
}

/** x in another number format, rounded to nearest even. */
export async function cast(
  args: { x: Matrix; dtype: FloatType },
  options: KernelOptions = {},
): Promise<{ y: Matrix } & Timed> {
  const { x, dtype } = args;
  const { y, seconds } = await run('cast', args, options);
  return { y: { ...matrixLike(y, x, x.rows, x.cols), dtype }, seconds };
}

/** NF4 codes (two per byte) and one absmax per 64 values of the flattened matrix. */
export async function quantizeNf4(
  args: { x: Matrix },
  options: KernelOptions = {},
): Promise<{ codes: Uint8Array; absmax: Float32Array } & Timed> {
  const { codes, absmax, seconds } = await run('quantize_nf4', args, options);
  return { codes: codes as Uint8Array, absmax: absmax as Float32Array, seconds };
}

/** The second quantization: 8-bit codes of absmax - offset, one nested absmax per 256. */
export async function quantizeAbsmax(
  args: { absmax: Float32Array },
  options: KernelOptions = {},
): Promise<{ codes: Uint8Array; nestedAbsmax: Float32Array; offset: number } & Timed> {
  const { codes, nested_absmax, offset, seconds } = await run('quantize_absmax', args, options);
  return {
    codes: codes as Uint8Array,
    nestedAbsmax: nested_absmax as Float32Array,
    offset: offset as number,
    seconds,
  };
}

/** The values of a stored weight. */
export async function dequantize(
  args: { weight: Weight; dtype: FloatType },
  options: KernelOptions = {},
): Promise<{ y: Matrix } & Timed> {
  const { weight, dtype } = args;
  const { y, seconds } = await run('dequantize', args, options);
  const { rows, cols } = weight;
  return { y: { data: y as Matrix['data'], dtype, rows, cols }, seconds };
}
