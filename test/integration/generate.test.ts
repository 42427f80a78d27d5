// Generation through the public interface, on a tiny random model with one token per byte.
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { LowrankError, Model } from '../../lib/index.js';
import { loadBuild, tinyConfig, writeTinyModel } from '../support/tiny_model.mjs';

let parent: string;
let model: Model;

beforeAll(async () => {
  parent = await mkdtemp(path.join(os.tmpdir(), 'lowrank-generate-'));
  await writeTinyModel(loadBuild(), path.join(parent, 'model'), { seed: 3 });
  model = await Model.load(path.join(parent, 'model'), { threads: 1 });
});
afterAll(async () => {
  await model.dispose();
  await rm(parent, { recursive: true, force: true });
});

const sampled = { temperature: 1.5, maxNewTokens: 40 };

describe('generate', () => {
  it('streams pieces that join to the text', async () => {
    const pieces: string[] = [];
    for await (const piece of model.generate('abc', sampled)) pieces.push(piece);
    expect(pieces.length).toBeGreaterThan(1);
    expect(await model.generate('abc', sampled).text()).toBe(pieces.join(''));
  });

  it('greedy decoding takes the largest logit of the whole context', async () => {
    const prompt = Int32Array.from(Buffer.from('hello there'));
    const generator = await model.native.createGenerator(null, 32);
    await generator.prefill(prompt);
    const context = [...prompt];
    for (let i = 0; i < 6; i++) {
      const token = await generator.next({ temperature: 0, topK: 0, topP: 1, seed: 0 });
      const logits = await model.native.forwardLogits(null, Int32Array.from(context));
      const last = Array.from(logits.slice(-model.info.vocabulary));
      expect(token).toBe(last.indexOf(Math.max(...last)));
      context.push(token);
    }
    expect(generator.length()).toBe(context.length);
    await generator.dispose();
  });

  it('the seed decides', async () => {
    const text = (seed: number) => model.generate('abc', { ...sampled, seed }).text();
    expect(await text(1)).toBe(await text(1));
    expect(await text(1)).not.toBe(await text(2));
  });

  it('topK 1 is greedy at any temperature', async () => {
    const greedy = await model.generate('abc', { maxNewTokens: 10 }).text();
    expect(await model.generate('abc', { ...sampled, maxNewTokens: 10, topK: 1 }).text()).toBe(
      greedy,
    );
  });

  it('stops at a stop string, which is not part of the answer', async () => {
    const whole = await model.generate('abc', sampled).text();
    const stop = [...whole].slice(3, 5).join('');
    const generation = model.generate('abc', { ...sampled, stop });
    expect(await generation.text()).toBe(whole.slice(0, whole.indexOf(stop)));
    expect(generation.summary?.finishReason).toBe('stop-string');
  });

  it('renders messages with the chat template', async () => {
    const messages = [{ role: 'user', content: 'hi' }];
    const rendered = '<|start|>user\nhi<|end|><|start|>assistant\n';
    const chat = model.generate(messages, { maxNewTokens: 12 });
    expect(await chat.text()).toBe(await model.generate(rendered, { maxNewTokens: 12 }).text());
    expect(chat.summary?.promptTokens).toBe(5 + 2 + 1 + 1 + 1 + 10);
  });

  it('ends at the length limit of the model', async () => {
    const prompt = new Int32Array(model.info.maxPositions - 4).fill(97);
    const generation = model.generate(prompt, { maxNewTokens: 100, temperature: 1, seed: 5 });
    await generation.text();
    expect(generation.summary).toMatchObject({ newTokens: 4, finishReason: 'length' });
    await expect(
      model.generate(new Int32Array(model.info.maxPositions).fill(97)).text(),
    ).rejects.toThrow('the prompt has 128 tokens; the model takes 128');
  });

  it('an abort signal ends it with ERR_LOWRANK_ABORTED', async () => {
    const controller = new AbortController();
    const run = async () => {
      for await (const _ of model.generate('abc', { ...sampled, signal: controller.signal }))
        controller.abort(new Error('enough'));
    };
    await expect(run()).rejects.toMatchObject({ code: 'ERR_LOWRANK_ABORTED' });
    const late = model.generate('abc', { signal: controller.signal }).text();
    await expect(late).rejects.toMatchObject({ cause: new Error('enough') });
  });

  it('leaving the loop early frees the generator', async () => {
    for await (const piece of model.generate('abc', sampled)) {
      expect(piece).not.toBe('');
      break;
    }
    expect(await model.generate('abc', { maxNewTokens: 1 }).text()).toBeTypeOf('string');
  });

  it('refuses options it does not know, and a second reading', async () => {
    expect(() => model.generate('abc', { temprature: 1 } as never)).toThrow(LowrankError);
    const generation = model.generate('abc', { maxNewTokens: 1 });
    await generation.text();
    await expect(generation.text()).rejects.toThrow('only once');
  });
});

describe('Model', () => {
  it('reports progress and fails with a readable error', async () => {
    const seen: number[] = [];
    const folder = path.join(parent, 'model');
    const other = await Model.load(folder, {
      onProgress: (done, total) => seen.push(done / total),
    });
    expect(seen.at(-1)).toBe(1);
    await other.dispose();
    await expect(Model.load(path.join(parent, 'nothing'))).rejects.toBeInstanceOf(LowrankError);
    await expect(Model.load(folder, { quantisation: 'nf4' } as never)).rejects.toMatchObject({
      code: 'ERR_LOWRANK_INVALID_ARGUMENT',
    });
  });

  it.each(['nf4', 'nf4-double'] as const)(
    'quantization %s keeps the logits near',
    async (quantization) => {
      await using small = await Model.load(path.join(parent, 'model'), {
        quantization,
        threads: 1,
      });
      expect(small.info.quantization).toBe(quantization);
      expect(small.info.weightBytes).toBeLessThan(model.info.weightBytes);
      const ids = Int32Array.of(1, 2, 3);
      const [a, b] = await Promise.all([
        small.native.forwardLogits(null, ids),
        model.native.forwardLogits(null, ids),
      ]);
      const norm = (x: Float32Array) => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
      expect(norm(a.map((v, i) => v - b[i]!)) / norm(b)).toBeLessThan(0.25);
      expect(a).not.toEqual(b);
    },
  );

  it('results do not depend on the number of threads', async () => {
    await using two = await Model.load(path.join(parent, 'model'), { threads: 2 });
    const ids = Int32Array.from({ length: 50 }, (_, i) => i);
    expect(await two.native.forwardLogits(null, ids)).toEqual(
      await model.native.forwardLogits(null, ids),
    );
  });

  it('a saved model gives the same logits', async () => {
    const fresh = await Model.create(tinyConfig, { seed: 9, trainable: true });
    const ids = Int32Array.of(5, 6, 7);
    await fresh.save(path.join(parent, 'saved'));
    await using loaded = await Model.load(path.join(parent, 'saved'));
    expect(await loaded.native.forwardLogits(null, ids)).toEqual(
      await fresh.native.forwardLogits(null, ids),
    );
    await fresh.dispose();
    await expect(loaded.tokenizer()).rejects.toMatchObject({ code: 'ERR_LOWRANK_INVALID_FILE' });
  });
});
