// Seconds of single kernels at the shapes of a 0.5B model, through lowrank/kernels:
//   node bench/kernels.mjs [--isa avx2,avx512] [--repeat 30] [--filter linear] [--threads N]
// Prints p20, p50 and p80, and the rate at p50 where arithmetic is what counts.
import { parseArgs } from 'node:util';

import { setUp } from '../scripts/setup.mjs';

setUp();
const kernels = await import('../dist/kernels.js');

const { values } = parseArgs({
  options: {
    isa: { type: 'string' },
    repeat: { type: 'string', default: '30' },
    filter: { type: 'string', default: '' },
    threads: { type: 'string' },
  },
});

// Tokens, hidden, intermediate, vocabulary (cut), rank.
const [T, H, I, V, rank] = [512, 896, 4864, 8192, 16];
const [heads, kvHeads, headDim] = [14, 2, 64];

function matrix(rows, cols, dtype = 'f32') {
  const values32 = Float32Array.from({ length: rows * cols }, (_, i) => Math.sin(i * 0.37) / 10);
  if (dtype === 'f32') return { data: values32, rows, cols };
  const bits = new Uint32Array(values32.buffer); // truncated to bf16: good enough for a clock
  return { data: Uint16Array.from(bits, (b) => b >>> 16), dtype, rows, cols };
}
const weight = (rows, cols, storage) => ({
  storage,
  data: matrix(rows, cols, storage).data,
  rows,
  cols,
});

// Name, floating-point operations, call.
async function cases(options) {
  const list = [];
  const quantized = await kernels.quantizeNf4({ x: matrix(I, H) });
  const nf4 = { storage: 'nf4', data: quantized.codes, absmax: quantized.absmax, rows: I, cols: H };
  const lora = [{ a: matrix(rank, H).data, b: matrix(I, rank).data, rank, scale: 2 }];
  const flops = 2 * T * H * I;
  for (const dtype of ['f32', 'bf16']) {
    const x = matrix(T, H, dtype);
    const dY = matrix(T, I, dtype);
    for (const w of [weight(I, H, dtype), nf4]) {
      const name = `${dtype} x ${w.storage}`;
      list.push([
        `linear_forward ${name}`,
        flops,
        () => kernels.linearForward({ x, weight: w }, options),
      ]);
      list.push([
        `linear_forward ${name}, rank ${rank}`,
        flops + 2 * T * rank * (H + I),
        () => kernels.linearForward({ x, weight: w, lora }, options),
      ]);
      list.push([
        `linear_backward ${name}`,
        flops,
        () => kernels.linearBackward({ dY, weight: w }, options),
      ]);
    }
    const [q, k, v] = [heads, kvHeads, kvHeads].map((n) => matrix(T, n * headDim, dtype));
    const shape = {
      qOffsets: Int32Array.of(0, T),
      heads,
      kvHeads,
      headDim,
      scale: headDim ** -0.5,
    };
    list.push([
      `attention_forward ${dtype}`,
      2 * T * T * heads * headDim,
      () => kernels.attentionForward({ q, k, v, ...shape }, options),
    ]);
    const { out, lse } = await kernels.attentionForward({ q, k, v, ...shape });
    list.push([
      `attention_backward ${dtype}`,
      5 * T * T * heads * headDim,
      () => kernels.attentionBackward({ q, k, v, ...shape, out, lse, dOut: q }, options),
    ]);
    const rows = Int32Array.from({ length: T }, (_, i) => i);
    const head = {
      x,
      weight: weight(V, H, dtype),
      rows,
      targets: rows,
      weights: new Float32Array(T).fill(1 / T),
    };
    list.push([`head_loss ${dtype}`, 4 * T * H * V, () => kernels.headLoss(head, options)]);
    const norm = { x, weight: new Float32Array(H).fill(1), eps: 1e-6 };
    list.push([`rms_norm_forward ${dtype}`, 0, () => kernels.rmsNormForward(norm, options)]);
  }
  return list.filter(([name]) => name.includes(values.filter));
}

const quantile = (sorted, p) => sorted[Math.min(sorted.length - 1, Math.floor(p * sorted.length))];

for (const isa of values.isa?.split(',') ?? [undefined]) {
  const threads = values.threads === undefined ? undefined : Number(values.threads);
  console.log(`\nisa ${isa ?? 'best'}, milliseconds p20 / p50 / p80`);
  for (const [name, flops, run] of await cases({ isa, threads, repeat: Number(values.repeat) })) {
    const { seconds } = await run();
    const sorted = [...seconds].sort((a, b) => a - b);
    const [p20, p50, p80] = [0.2, 0.5, 0.8].map((p) => quantile(sorted, p));
    const times = [p20, p50, p80].map((s) => (s * 1e3).toFixed(3)).join(' / ');
    const rate = flops > 0 ? `  ${(flops / p50 / 1e9).toFixed(1)} GFLOP/s` : '';
    console.log(`${name.padEnd(40)} ${times}${rate}`);
  }
}
