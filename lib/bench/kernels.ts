// Single operations at the sizes of a named shape, against the product peak measured beside them.
// Each operation runs `repeat` times on data that stays in the engine; the seconds are the engine's.

import * as kernels from '../kernels.js';
import { loadAddon } from '../native/load_addon.js';
import { productPeak } from './train.js';
import { shapeConfig } from './shapes.js';
import { median } from './statistics.js';

export interface KernelBenchOptions {
  shape: string;
  dtype: 'f32' | 'bf16';
  /** Rows: tokens of a micro-batch. */
  seq: number;
  steps: number;
  /** Only operations whose name contains this. */
  filter?: string;
  device?: string;
  threads?: number;
  isa?: string;
}

export interface KernelBenchRow {
  op: string;
  size: string;
  dtype: string;
  storage: string;
  isa: string;
  seconds: number;
  seconds_min: number;
  seconds_max: number;
  flops_per_second: number;
  share_of_peak: number;
  bytes_per_second: number;
}

interface Case {
  op: string;
  size: string;
  storage: string;
  flops: number;
  bytes: number;
  run: () => Promise<kernels.Timed>;
}

const RANK = 16;

type Half = 'f32' | 'bf16';

function matrix(rows: number, cols: number, dtype: Half): kernels.Matrix {
  const values = Float32Array.from({ length: rows * cols }, (_, i) => Math.sin(i * 0.37) / 8);
  if (dtype === 'f32') return { data: values, rows, cols };
  const bits = new Uint32Array(values.buffer); // cut off, not rounded: good enough for a clock
  return { data: Uint16Array.from(bits, (b) => b >>> 16), dtype, rows, cols };
}
const ones = (count: number) => new Float32Array(count).fill(1);
const small = (rows: number, cols: number) => matrix(rows, cols, 'f32').data as Float32Array;

interface Config {
  hidden_size: number;
  intermediate_size: number;
  num_attention_heads: number;
  num_key_value_heads: number;
  head_dim: number;
  vocab_size: number;
}

async function weightOf(rows: number, cols: number, storage: Half | 'nf4') {
  if (storage !== 'nf4')
    return { storage, data: matrix(rows, cols, storage).data, rows, cols } as kernels.Weight;
  const { codes, absmax } = await kernels.quantizeNf4({ x: matrix(rows, cols, 'f32') });
  return { storage, data: codes, absmax, rows, cols } as kernels.Weight;
}

async function* linearCases(
  config: Config,
  { dtype, seq }: KernelBenchOptions,
  options: kernels.KernelOptions,
): AsyncGenerator<Case> {
  const { hidden_size: hidden, intermediate_size: intermediate } = config;
  const attention = config.num_attention_heads * config.head_dim;
  const sizes: [string, number, number][] = [
    ['q_proj', hidden, attention],
    ['up_proj', hidden, intermediate],
    ['down_proj', intermediate, hidden],
  ];
  for (const [name, cols, rows] of sizes) {
    const x = matrix(seq, cols, dtype);
    const dY = matrix(seq, rows, dtype);
    const lora = [{ a: small(RANK, cols), b: small(rows, RANK), rank: RANK, scale: 2 }];
    const xa = matrix(seq, RANK, dtype);
    const flops = 2 * seq * cols * rows;
    const adapter = 2 * seq * RANK * (cols + rows);
    const width = dtype === 'bf16' ? 2 : 4;
    for (const storage of [dtype, 'nf4'] as const) {
      const weight = await weightOf(rows, cols, storage);
      const bytes =
        seq * (cols + rows) * width + rows * cols * (storage === 'nf4' ? 0.5625 : width);
      const size = `${name} ${seq} x ${cols} -> ${rows}`;
      const common = { size, storage, bytes };
      yield {
        ...common,
        op: 'linear_forward',
        flops,
        run: () => kernels.linearForward({ x, weight }, options),
      };
      yield {
        ...common,
        op: `linear_forward r${RANK}`,
        flops: flops + adapter,
        run: () => kernels.linearForward({ x, weight, lora }, options),
      };
      yield {
        ...common,
        op: 'linear_backward',
        flops,
        run: () => kernels.linearBackward({ dY, weight }, options),
      };
      yield {
        ...common,
        op: `linear_backward r${RANK}`,
        flops: flops + 2 * adapter,
        run: () => kernels.linearBackward({ dY, weight, x, xa, lora }, options),
      };
    }
  }
}

async function* otherCases(
  config: Config,
  { dtype, seq }: KernelBenchOptions,
  options: kernels.KernelOptions,
): AsyncGenerator<Case> {
  const { hidden_size: hidden, intermediate_size: intermediate, vocab_size: vocabulary } = config;
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, head_dim: headDim } = config;
  const width = dtype === 'bf16' ? 2 : 4;
  const x = matrix(seq, hidden, dtype);
  const none = { storage: dtype, flops: 0 };

  const q = matrix(seq, heads * headDim, dtype);
  const [k, v] = [matrix(seq, kvHeads * headDim, dtype), matrix(seq, kvHeads * headDim, dtype)];
  const qOffsets = Int32Array.of(0, seq);
  const shape = { q, k, v, qOffsets, heads, kvHeads, headDim, scale: headDim ** -0.5 };
  const pairs = (seq * (seq + 1)) / 2;
  const size = `${seq}, ${heads}/${kvHeads} heads of ${headDim}`;
  const attentionBytes = 2 * seq * (heads + kvHeads) * headDim * width;
  yield {
    op: 'attention_forward',
    size,
    storage: dtype,
    flops: 4 * pairs * heads * headDim,
    bytes: attentionBytes,
    run: () => kernels.attentionForward(shape, options),
  };
  const { out, lse } = await kernels.attentionForward(shape);
  yield {
    op: 'attention_backward',
    size,
    storage: dtype,
    flops: 8 * pairs * heads * headDim,
    bytes: 2 * attentionBytes,
    run: () => kernels.attentionBackward({ ...shape, out, lse, dOut: q }, options),
  };

  const rows = Int32Array.from({ length: seq }, (_, i) => i);
  const head = {
    x,
    weight: await weightOf(vocabulary, hidden, dtype),
    rows,
    targets: rows,
    weights: ones(seq).fill(1 / seq),
  };
  yield {
    op: 'head_loss',
    size: `${seq} x ${hidden} -> ${vocabulary}`,
    storage: dtype,
    flops: 4 * seq * hidden * vocabulary,
    bytes: vocabulary * hidden * width,
    run: () => kernels.headLoss(head, options),
  };

  yield {
    ...none,
    op: 'rms_norm_forward',
    size: `${seq} x ${hidden}`,
    bytes: 2 * seq * hidden * width,
    run: () => kernels.rmsNormForward({ x, weight: ones(hidden), eps: 1e-6 }, options),
  };
  const [gate, up] = [matrix(seq, intermediate, dtype), matrix(seq, intermediate, dtype)];
  yield {
    ...none,
    op: 'gated_activation_forward',
    size: `${seq} x ${intermediate}`,
    bytes: 3 * seq * intermediate * width,
    run: () => kernels.gatedActivationForward({ gate, up }, options),
  };
}

/** Rows come as they are measured. */
export async function* benchKernels(options: KernelBenchOptions): AsyncGenerator<KernelBenchRow> {
  const config = JSON.parse(await shapeConfig(options.shape, options.dtype)) as Config;
  config.head_dim ??= config.hidden_size / config.num_attention_heads;
  const { threads, isa } = options;
  const device = { device: options.device ?? 'auto', threads, isa };
  const { device: kind, isa: found } = loadAddon().describeDevice(device);
  const measured = kind === 'cpu' ? 'best' : found;
  const kernelOptions = { ...device, repeat: options.steps };
  for (const cases of [linearCases, otherCases]) {
    for await (const c of cases(config, options, kernelOptions)) {
      if (options.filter && !c.op.includes(options.filter)) continue;
      const before = await productPeak(device, options.dtype);
      const { seconds } = await c.run();
      const peak = (before + (await productPeak(device, options.dtype))) / 2;
      const middle = median(seconds);
      yield {
        op: c.op,
        size: c.size,
        dtype: options.dtype,
        storage: c.storage,
        isa: isa ?? measured,
        seconds: middle,
        seconds_min: Math.min(...seconds),
        seconds_max: Math.max(...seconds),
        flops_per_second: c.flops / middle,
        share_of_peak: c.flops / middle / peak,
        bytes_per_second: c.bytes / middle,
      };
    }
  }
}
