// The kernels through the public interface against plain loops in f64.
import { describe, expect, it } from 'vitest';

import * as kernels from '../../lib/kernels.js';
import type { Matrix } from '../../lib/kernels.js';

const f32 = (rows: number, cols: number, at: (i: number) => number): Matrix => ({
  data: Float32Array.from({ length: rows * cols }, (_, i) => at(i)),
  rows,
  cols,
});
// A fixed sequence in [-1, 1) without structure.
const noise = (seed: number) => (i: number) => {
  const x = Math.sin((i + 1) * 12.9898 + seed * 78.233) * 43758.5453;
  return 2 * (x - Math.floor(x)) - 1;
};
const isas = ['reference', undefined];

function product(x: Matrix, w: Matrix): number[] {
  const y: number[] = [];
  for (let t = 0; t < x.rows; t++)
    for (let o = 0; o < w.rows; o++) {
      let sum = 0;
      for (let i = 0; i < x.cols; i++) sum += x.data[t * x.cols + i]! * w.data[o * w.cols + i]!;
      y.push(sum);
    }
  return y;
}

// f32 sums of n terms of size <= 1 differ from f64 by at most about n * 2^-24 per unit.
function expectNear(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: number) {
  expect(actual.length).toBe(expected.length);
  for (let i = 0; i < expected.length; i++)
    expect(Math.abs(actual[i]! - expected[i]!), `element ${i}`).toBeLessThanOrEqual(tolerance);
}

describe.each(isas)('kernels, isa %s', (isa) => {
  const options = { isa, threads: 1 };
  const x = f32(5, 24, noise(1));
  const w = f32(13, 24, noise(2));
  const weight = { storage: 'f32' as const, ...w };

  it('linearForward with bias and an adapter', async () => {
    const bias = Float32Array.from({ length: 13 }, (_, i) => noise(3)(i));
    const a = f32(3, 24, noise(4));
    const b = f32(13, 3, noise(5));
    const lora = [
      { a: a.data as Float32Array, b: b.data as Float32Array, rank: 3, scale: 0.5, rowBegin: 1 },
    ];
    const { y, xa } = await kernels.linearForward({ x, weight, bias, lora }, options);
    const plain = product(x, w);
    const low = product({ data: Float32Array.from(product(x, a)), rows: 5, cols: 3 }, b);
    const expected = plain.map((v, i) => v + bias[i % 13]! + (i >= 13 ? 0.5 * low[i]! : 0));
    expectNear(y.data, expected, 1e-5);
    expect(xa).toMatchObject({ rows: 5, cols: 3 });
  });

  it('linearBackward gives the gradients of sum(dY * y)', async () => {
    const dY = f32(5, 13, noise(6));
    const result = await kernels.linearBackward({ dY, weight, x, weightGradient: true }, options);
    const transposed = f32(24, 13, (i) => w.data[(i % 13) * 24 + Math.floor(i / 13)]!);
    expectNear(result.dX.data, product(dY, transposed), 1e-5);
    const dYT = f32(13, 5, (i) => dY.data[(i % 5) * 13 + Math.floor(i / 5)]!);
    const xT = f32(24, 5, (i) => x.data[(i % 5) * 24 + Math.floor(i / 5)]!);
    expectNear(result.dWeight!, product(dYT, xT), 1e-5);
  });

  it('rmsNormForward', async () => {
    const scale = Float32Array.from({ length: 24 }, (_, i) => noise(7)(i));
    const { y, rstd } = await kernels.rmsNormForward({ x, weight: scale, eps: 1e-6 }, options);
    for (let t = 0; t < 5; t++) {
      const row = Array.from(x.data.slice(t * 24, t * 24 + 24));
      const mean = row.reduce((sum, v) => sum + v * v, 0) / 24;
      const expected = 1 / Math.sqrt(mean + 1e-6);
      expect(rstd[t]!).toBeCloseTo(expected, 5);
      expectNear(
        y.data.slice(t * 24, t * 24 + 24),
        row.map((v, i) => v * expected * scale[i]!),
        1e-5,
      );
    }
  });

  it('rope there and back is the identity', async () => {
    const positions = Int32Array.of(0, 1, 2, 3, 4);
    const angle = (i: number) => Math.floor(i / 4) * 100 ** (-(i % 4) / 4);
    const cos = Float32Array.from({ length: 20 }, (_, i) => Math.cos(angle(i)));
    const sin = Float32Array.from({ length: 20 }, (_, i) => Math.sin(angle(i)));
    const shape = { heads: 3, headDim: 8, positions, cos, sin };
    const { y } = await kernels.rope({ x, ...shape }, options);
    expectNear(y.data.slice(0, 24), x.data.slice(0, 24), 0);
    expect(y.data).not.toEqual(x.data);
    const back = await kernels.rope({ x: y, ...shape, inverse: true }, options);
    expectNear(back.y.data, x.data, 1e-6);
  });

  it('attention of one head is a causal softmax', async () => {
    const [q, k, v] = [8, 9, 10].map((seed) => f32(6, 4, noise(seed))) as [Matrix, Matrix, Matrix];
    const shape = {
      qOffsets: Int32Array.of(0, 4, 6),
      heads: 1,
      kvHeads: 1,
      headDim: 4,
      scale: 0.5,
    };
    const { out, lse } = await kernels.attentionForward({ q, k, v, ...shape }, options);
    const begins = [0, 0, 0, 0, 4, 4];
    for (let t = 0; t < 6; t++) {
      let total = 0;
      const sum = [0, 0, 0, 0];
      for (let s = begins[t]!; s <= t; s++) {
        let dot = 0;
        for (let i = 0; i < 4; i++) dot += q.data[t * 4 + i]! * k.data[s * 4 + i]!;
        const p = Math.exp(0.5 * dot);
        total += p;
        for (let i = 0; i < 4; i++) sum[i]! += p * v.data[s * 4 + i]!;
      }
      expect(lse[t]!).toBeCloseTo(Math.log(total), 5);
      expectNear(
        out.data.slice(t * 4, t * 4 + 4),
        sum.map((s) => s / total),
        1e-5,
      );
    }
    const dOut = f32(6, 4, noise(11));
    const { dV } = await kernels.attentionBackward({ q, k, v, ...shape, out, lse, dOut }, options);
    // The last row of a document is seen by itself only, so its dV is p * dOut of that row.
    const p = Math.exp(
      0.5 * [0, 1, 2, 3].reduce((d, i) => d + q.data[20 + i]! * k.data[20 + i]!, 0) - lse[5]!,
    );
    expectNear(
      dV.data.slice(20),
      Array.from(dOut.data.slice(20), (g) => p * g),
      1e-5,
    );
  });

  it('headLoss is a log softmax, with the gradient that follows', async () => {
    const rows = Int32Array.of(0, 2, 4);
    const targets = Int32Array.of(3, 0, 12);
    const weights = Float32Array.of(0.5, 0.25, 0.25);
    const result = await kernels.headLoss({ x, weight, rows, targets, weights }, options);
    const logits = product(x, w);
    for (let i = 0; i < 3; i++) {
      const row = logits.slice(rows[i]! * 13, rows[i]! * 13 + 13);
      const lse = Math.log(row.reduce((sum, l) => sum + Math.exp(l), 0));
      expect(result.logprob[i]!).toBeCloseTo(row[targets[i]!]! - lse, 5);
      expect(result.correct[i]).toBe(row[targets[i]!] === Math.max(...row) ? 1 : 0);
      const gradient = Array.from({ length: 24 }, (_, h) =>
        row.reduce((sum, l, o) => {
          const p = Math.exp(l - lse) - (o === targets[i] ? 1 : 0);
          return sum + weights[i]! * p * w.data[o * 24 + h]!;
        }, 0),
      );
      const at = rows[i]! * 24;
      expectNear(result.dX!.data.slice(at, at + 24), gradient, 1e-5);
    }
    expect(result.dX!.data.slice(24, 48).every((g) => g === 0)).toBe(true);
  });

  it('gated activation, embedding, squared norm, cast', async () => {
    const gate = f32(2, 5, noise(12));
    const up = f32(2, 5, noise(13));
    const gated = await kernels.gatedActivationForward({ gate, up }, options);
    expectNear(
      gated.y.data,
      Array.from(gate.data, (g, i) => (g / (1 + Math.exp(-g))) * up.data[i]!),
      1e-6,
    );
    const ids = Int32Array.of(12, 0, 12);
    const { y } = await kernels.embeddingForward({ ids, weight }, options);
    expect(y.data.slice(0, 24)).toEqual(w.data.slice(12 * 24));
    const back = await kernels.embeddingBackward({ ids, dY: y, vocabulary: 13 }, options);
    expectNear(
      back.dWeight.slice(12 * 24),
      Array.from(w.data.slice(12 * 24), (v) => 2 * v),
      0,
    );
    const { result } = await kernels.squaredNorm({ x: x.data as Float32Array }, options);
    expect(result).toBeCloseTo(
      Array.from(x.data).reduce((sum, v) => sum + v * v, 0),
      6,
    );
    const half = await kernels.cast({ x, dtype: 'bf16' }, options);
    const full = await kernels.cast({ x: half.y, dtype: 'f32' }, options);
    expectNear(full.y.data, x.data, 2 ** -8); // half a unit in the last of 8 bits, values below 1
  });

  it('adamw makes the first step by the learning rate', async () => {
    const zeros = new Float32Array(4);
    const gradient = Float32Array.of(1, -1, 0.5, 0);
    const rates = { learningRate: 0.1, weightDecay: 0, beta1: 0.9, beta2: 0.99, eps: 0, step: 1 };
    const parameter = Float32Array.of(1, 1, 1, 1);
    const result = await kernels.adamw(
      { parameter, gradient, m: zeros, v: zeros, ...rates, eps: 1e-12 },
      options,
    );
    expectNear(result.parameter, [0.9, 1.1, 0.9, 1], 1e-6);
    expectNear(result.m, [0.1, -0.1, 0.05, 0], 1e-7);
    expect(parameter[0]).toBe(1);
    // 1 - 0.999f is off by 1.3e-5 of itself.
    const second = { parameter, gradient, m: zeros, v: zeros, ...rates, beta2: 0.999 };
    expectNear(
      (await kernels.adamw({ ...second, eps: 1e-12 }, options)).v,
      [1e-3, 1e-3, 2.5e-4, 0],
      1e-10,
    );
  });

  it('nf4, with and without double quantization', async () => {
    const { codes, absmax } = await kernels.quantizeNf4({ x: f32(16, 64, noise(14)) }, options);
    expect([codes.length, absmax.length]).toEqual([512, 16]);
    const stored = { storage: 'nf4' as const, rows: 16, cols: 64, data: codes };
    const { y } = await kernels.dequantize(
      { weight: { ...stored, absmax }, dtype: 'f32' },
      options,
    );
    // The widest gap between two NF4 codes is 0.304 of absmax; absmax is below 1 here.
    expectNear(y.data, f32(16, 64, noise(14)).data, 0.153);
    const nested = await kernels.quantizeAbsmax({ absmax }, options);
    const twice = {
      ...stored,
      absmaxCodes: nested.codes,
      nestedAbsmax: nested.nestedAbsmax,
      nestedOffset: nested.offset,
    };
    const again = await kernels.dequantize({ weight: twice, dtype: 'f32' }, options);
    expectNear(again.y.data, y.data, 0.02);
  });
});

describe('kernel calls', () => {
  it('times repeated runs', async () => {
    const { seconds } = await kernels.squaredNorm({ x: new Float32Array(1000) }, { repeat: 3 });
    expect(seconds).toHaveLength(3);
    expect(Math.min(...seconds)).toBeGreaterThan(0);
  });

  it('refuses arrays that do not fit', async () => {
    const x = f32(2, 3, noise(1));
    await expect(
      kernels.rmsNormForward({ x: { ...x, rows: 3 }, weight: new Float32Array(3), eps: 1e-6 }),
    ).rejects.toMatchObject({ code: 'ERR_LOWRANK_INVALID_ARGUMENT' });
    await expect(
      kernels.rmsNormForward({ x, weight: new Float32Array(4), eps: 1e-6 }),
    ).rejects.toThrow('"weight" has 4 elements, expected 3');
    const ids = Int32Array.of(7);
    const weight = { storage: 'f32' as const, ...x };
    await expect(kernels.embeddingForward({ ids, weight })).rejects.toMatchObject({
      code: 'ERR_LOWRANK_INVALID_ARGUMENT',
    });
    await expect(
      kernels.embeddingBackward({ ids, dY: f32(1, 3, noise(1)), vocabulary: 2 }),
    ).rejects.toThrow('outside the vocabulary');
  });

  it('has a typed function for every kernel', () => {
    const camel = (name: string) => name.replace(/_(\w)/g, (_, c: string) => c.toUpperCase());
    const missing = kernels.kernelNames().filter((name) => !(camel(name) in kernels));
    expect(missing).toEqual([]);
  });
});
