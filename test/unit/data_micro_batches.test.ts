import { describe, expect, test } from 'vitest';

import type { PrepareOptions } from '../../lib/data/options.js';
import { chats, prepare } from './support/prepare.js';
import { chat, writeTextModel } from './support/text_model.js';

describe('micro-batches', () => {
  test('documents end to end, each as its example', async () => {
    const data = await prepare({ rows: chats(23), options: { maxLength: 64 } });
    for (const packing of [false, true]) {
      const options = { perDeviceBatchSize: 4, shuffle: true, packing, seed: 3, epoch: 1 };
      const plan = await data.plan('train', options);
      const seen: number[] = [];
      let index = 0;
      for await (const batch of data.batches('train', options)) {
        expect(batch.examples).toEqual(plan.members(index++));
        expect(batch.documentOffsets[0]).toBe(0);
        expect(batch.documentOffsets).toHaveLength(batch.examples.length + 1);
        expect(batch.documentOffsets.at(-1)).toBe(batch.inputIds.length);
        for (const [i, number] of batch.examples.entries()) {
          const example = await data.example(number);
          const [from, to] = [batch.documentOffsets[i], batch.documentOffsets[i + 1]];
          expect(batch.inputIds.slice(from, to)).toEqual(example.inputIds);
          expect(batch.labels.slice(from, to)).toEqual(example.labels);
        }
        expect(batch.labelTokens).toBe(batch.labels.filter((label) => label >= 0).length);
        expect(batch.weights).toBeUndefined();
        seen.push(...batch.examples);
      }
      expect(index).toBe(plan.length);
      expect(seen.sort((a, b) => a - b)).toEqual(Array.from({ length: 23 }, (_, i) => i));
      const { tokens, labelTokens } = data.report.splits.train;
      expect(plan).toMatchObject({ tokens, labelTokens });
    }
  });

  test('reading may begin anywhere', async () => {
    const data = await prepare({ rows: chats(20) });
    const options = { perDeviceBatchSize: 3, shuffle: true, epoch: 2 };
    const whole: unknown[] = [];
    for await (const batch of data.batches('train', options)) whole.push(batch);
    const rest: unknown[] = [];
    for await (const batch of data.batches('train', { ...options, start: 4 })) rest.push(batch);
    expect(whole).toHaveLength(7);
    expect(rest).toEqual(whole.slice(4));
  });

  test('numbers out of range, sequences that are too short', async () => {
    const data = await prepare({ rows: chats(3) });
    const plan = await data.plan('train');
    expect(() => plan.members(3)).toThrow('there is no micro-batch 3');
    await expect(data.example(3)).rejects.toThrow('there is no example 3');
    await expect(data.plan('train', { packing: true, packLength: 5 })).rejects.toThrow(
      "doesn't fit",
    );
  });
});

test('the fingerprint follows tokens, labels and split, and nothing else', async () => {
  const model = writeTextModel();
  const print = async (rows: readonly unknown[], options?: PrepareOptions): Promise<string> =>
    (await prepare({ rows, model, options })).report.fingerprint;
  const rows = [{ input_ids: [1, 2, 5] }, { input_ids: [3, 4, 5] }];
  const same = [{ input_ids: [1, 2, 5], labels: [-100, 2, 5], id: 7 }, rows[1]];
  expect(await print(same)).toBe(await print(rows));
  const others = [
    await print(rows.toReversed()),
    await print([{ input_ids: [1, 2, 5], labels: [-100, -100, 5] }, rows[1]]),
    await print([{ input_ids: [1, 2] }, { input_ids: [5, 3, 4, 5] }]),
    await print(rows, { split: [0, 1, 0] }),
  ];
  expect(new Set([await print(rows), ...others]).size).toBe(5);
});

test('the report says what was read', async () => {
  const rows = [...chats(8), { text: 'the cat' }, chat('<|im_end|>', 'x')];
  const { report } = await prepare({ rows });
  expect(report.formats.map(({ format, rows: count }) => [format, count])).toEqual([
    ['chat', 9],
    ['text', 1],
  ]);
  expect(report).toMatchObject({
    rows: 10,
    badRowCount: 0,
    typedSpecialTokens: 1,
    withStopToken: 10,
  });
  expect(report.warnings).toEqual([
    'rows of different kinds: 9 chat, 1 text',
    '1 rows have special tokens typed inside their text',
  ]);
  const { min, p50, max, mean } = report.lengths;
  expect(min).toBeLessThanOrEqual(p50);
  expect(p50).toBeLessThanOrEqual(max);
  expect(mean * 10).toBeCloseTo(report.splits.train.tokens, 6);
  expect(JSON.parse(JSON.stringify(report))).toEqual(report);
});
