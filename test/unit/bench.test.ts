// What the benches count and write; no figure is checked here.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

import { saveResults } from '../../lib/bench/results.js';
import { flopsPerToken, shapeConfig } from '../../lib/bench/shapes.js';
import { median, quantile } from '../../lib/bench/statistics.js';
import { benchDecode } from '../../lib/bench/decode.js';
import { benchTrain, randomBatch } from '../../lib/bench/train.js';

const scratch = mkdtempSync(path.join(os.tmpdir(), 'lowrank-bench-'));
afterAll(() => rmSync(scratch, { recursive: true }));

describe('FLOPs per token', () => {
  const model = {
    layers: 2,
    hidden: 8,
    intermediate: 16,
    heads: 4,
    kvHeads: 2,
    headDim: 2,
    vocabulary: 32,
  };
  // q, o: 8 x 8; k, v: 8 x 4; three of 8 x 16; twice.
  const body = 2 * (2 * 64 + 2 * 32 + 3 * 128);
  const head = 32 * 8;
  const attention = 2 * 10 * 8; // layers, length, heads * headDim

  it('count frozen weights four times, trained ones six times', () => {
    expect(flopsPerToken(model, 10, 'lora', 100)).toBe(4 * (body + head) + 6 * (attention + 100));
    expect(flopsPerToken(model, 10, 'full', 0)).toBe(6 * (body + head + attention));
  });
  it('count a recomputed forward pass without its last linear and the head', () => {
    const last = 2 * 128;
    expect(flopsPerToken(model, 10, 'recompute', 100)).toBe(2 * (body - last + attention + 100));
  });
});

describe('statistics', () => {
  it('take the middle value', () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(quantile([4, 1, 3, 2], 0)).toBe(1);
    expect(quantile([], 0.5)).toBeNaN();
  });
});

describe('results', () => {
  it('go below a line of column names, with their origin', async () => {
    await saveResults(scratch, 'x', [{ name: 'a,"b"', value: 1 / 3 }]);
    await saveResults(scratch, 'x', [{ name: 'c', value: 2 }]);
    const lines = readFileSync(path.join(scratch, 'x.csv'), 'utf8').trim().split('\n');
    expect(lines[0]).toBe('date,commit,machine,cores,name,value');
    expect(lines[1]).toMatch(/,"a,""b""",0\.333333$/);
    expect(lines[2]).toMatch(/,c,2$/);
    expect(lines).toHaveLength(3);
  });
});

describe('training bench', () => {
  const config = {
    model_type: 'llama',
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    num_key_value_heads: 1,
    head_dim: 16,
    vocab_size: 64,
    hidden_act: 'silu',
    rms_norm_eps: 1e-6,
    max_position_embeddings: 64,
    rope_theta: 10000,
    tie_word_embeddings: true,
  };

  it('makes the same batch every time, in documents of equal length', () => {
    const batch = randomBatch(50, 8, 2, 2);
    expect([...batch.documentOffsets]).toEqual([0, 4, 8, 12, 16]);
    expect(batch).toEqual(randomBatch(50, 8, 2, 2));
    expect(Math.max(...batch.inputIds)).toBeLessThan(50);
  });

  it('reports every figure of a step, and where the time went', async () => {
    const file = path.join(scratch, 'config.json');
    const { writeFileSync } = await import('node:fs');
    writeFileSync(file, JSON.stringify(config));
    const options = { shape: file, method: 'lora', dtype: 'f32', seq: 16, batch: 2 } as const;
    const { row, profile } = await benchTrain({ ...options, steps: 2, profile: true, threads: 1 });
    for (const value of Object.values(row)) expect(value).toBeTruthy();
    expect(row.tokens_per_second).toBeCloseTo(32 / row.seconds_per_step, 6);
    const names = new Set(profile.map((r) => r.op));
    for (const op of [
      'linear_forward',
      'linear_backward',
      'attention_forward',
      'head_loss',
      'adamw',
    ])
      expect(names).toContain(op);
    const busy = profile.reduce((sum, r) => sum + r.seconds, 0);
    expect(busy).toBeLessThanOrEqual(row.seconds_max * 2);
    expect(profile.find((r) => r.op === 'adamw')!.calls).toBe(2);

    const decode = await benchDecode({
      shape: file,
      quantization: 'none',
      dtype: 'f32',
      seq: 8,
      steps: 4,
      threads: 1,
      profile: true,
    });
    expect(decode.row.tokens_per_second).toBeGreaterThan(0);
    // Every weight once (the tied embedding as head), and the cache: 2 layers, 2 x 16 x 8 values.
    expect(decode.row.bytes_per_token).toBeGreaterThan(4 * 2 * 2 * 16 * 8);
    // Of the measured tokens alone: a layer's attention once a token.
    const attention = decode.profile.filter((r) => r.op === 'attention_forward');
    expect(attention.reduce((sum, r) => sum + r.calls, 0)).toBe(4 * 2);
  });

  it('names an unknown shape', async () => {
    await expect(shapeConfig('llama-9000', 'f32')).rejects.toThrow("no shape 'llama-9000'");
  });
});
