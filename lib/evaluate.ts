// Loss and accuracy of a model, with or without an adapter, on a data set.

import { z } from 'zod';

import type { Adapter } from './adapter.js';
import { prepareDataset, type Dataset, type SplitName } from './data/index.js';
import { LowrankError } from './errors.js';
import type { Model } from './model.js';
import { linkAbort } from './native/abort.js';
import type { NativeAdapter } from './native/addon.js';
import { call } from './native/call.js';
import { preparedSource } from './train/batches.js';
import { evaluateBatches, type Evaluation } from './train/evaluate.js';
import { nativeSessionOptions } from './train/native_options.js';
import { parseSplitRatio, trainingSchema } from './train/options.js';
import { parseOptions } from './validate.js';

const optionsSchema = z.strictObject({
  /** Which part of the data; "all" doesn't split it. */
  split: z.enum(['all', 'train', 'validation', 'test']).default('all'),
  splitRatio: z.string().default('80/10/10'),
  maxLength: z.number().int().positive().default(1024),
  batchSize: z.number().int().positive().default(8),
  maxBadRows: z.number().int().nonnegative().default(0),
  /** File of a chat template instead of the model's. */
  chatTemplate: z.string().optional(),
  cacheDir: z.string().default('.lowrank-cache'),
});

export interface EvaluateOptions extends z.input<typeof optionsSchema> {
  adapter?: Adapter;
  signal?: AbortSignal;
}

export type { Evaluation };

/** Sums over the label tokens of the data; dropout is off. Memory doesn't grow with the data. */
export async function evaluate(
  model: Model,
  dataset: Dataset,
  options: EvaluateOptions = {},
): Promise<Evaluation> {
  const { adapter, signal, ...rest } = options;
  const { split, splitRatio, batchSize, ...data } = parseOptions(optionsSchema, rest, 'evaluate');
  const name: SplitName = split === 'all' ? 'train' : split;
  const prepared = await prepareDataset(dataset, {
    ...(model.folder === '' ? {} : { model: model.folder }),
    ...data,
    split: split === 'all' ? [1, 0, 0] : parseSplitRatio(splitRatio),
    requireTrainable: false,
    signal,
  });
  const abort = linkAbort(signal);
  let own: NativeAdapter | null = null;
  try {
    const source = await preparedSource(prepared, name, {
      seed: 0,
      shuffle: false,
      packing: false,
      perDeviceBatchSize: batchSize,
      maxLength: data.maxLength,
    });
    if (source.examples === 0)
      throw new LowrankError('ERR_LOWRANK_INVALID_DATA', `the ${name} part of the data is empty`, {
        hint: 'give more rows, another split ratio, or evaluate all of it',
      });
    // A session needs something to train; an adapter whose B is zero changes nothing.
    own = adapter ? null : await call(() => model.native.createAdapter(NEUTRAL_ADAPTER, 0));
    const session = await call(() =>
      model.native.createSession(
        adapter?.native ?? own,
        nativeSessionOptions(
          { ...trainingSchema.parse({}), gradientCheckpointing: 'block' },
          { maxTokens: source.maxBatchTokens, maxLabels: source.maxBatchLabels },
        ),
      ),
    );
    try {
      const result = await call(() => evaluateBatches(session, source, abort.flag));
      if (result === null)
        throw new LowrankError('ERR_LOWRANK_ABORTED', 'the evaluation was stopped by the signal');
      return result;
    } finally {
      await session.dispose();
    }
  } finally {
    abort.unlink();
    await own?.dispose();
    await prepared.close();
  }
}

const NEUTRAL_ADAPTER = {
  r: 1,
  loraAlpha: 1,
  loraDropout: 0,
  useRslora: false,
  targetModules: ['q_proj'],
  targetPattern: '',
  rankPattern: {},
  alphaPattern: {},
  modulesToSave: [],
};
