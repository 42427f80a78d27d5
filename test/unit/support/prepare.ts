// Data prepared for a test, and what it holds.
import { onTestFinished } from 'vitest';

import { loadDataset, prepareDataset, type PreparedData } from '../../../lib/data/index.js';
import type { PrepareOptions } from '../../../lib/data/options.js';
import type { Example, SplitName } from '../../../lib/data/types.js';
import { chat, temporaryFolder, writeTextModel } from './text_model.js';

/** Every example is trained. */
export const ALL_TRAIN = [1, 0, 0] as [number, number, number];

interface Setting {
  rows: readonly unknown[];
  model?: string;
  options?: PrepareOptions;
}

/** Closed when the test ends; without options nothing is held out. */
export async function prepare({ rows, model, options }: Setting): Promise<PreparedData> {
  const data = await prepareDataset(await loadDataset(rows), {
    model: model ?? writeTextModel(),
    cacheDir: temporaryFolder(),
    split: ALL_TRAIN,
    ...options,
  });
  onTestFinished(() => data.close());
  return data;
}

export async function collect(data: PreparedData, split: SplitName = 'train'): Promise<Example[]> {
  const examples: Example[] = [];
  for await (const example of data.examples(split)) examples.push(example);
  return examples;
}

/** What the promise is rejected with. */
export async function failure(
  promise: Promise<unknown>,
): Promise<{ message: string; hint: string; code: string }> {
  return promise.then(
    () => {
      throw new Error('it did not fail');
    },
    (error: unknown) => error as { message: string; hint: string; code: string },
  );
}

export const chats = (count: number): unknown[] =>
  Array.from({ length: count }, (_, i) =>
    chat(`what is ${i}?`, `it is ${i * i} ${'cat '.repeat(i % 7)}`),
  );
