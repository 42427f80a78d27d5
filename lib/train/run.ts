// A run from command-line options: loads the model and the data, then trains.

import { loadDataset } from '../data/index.js';
import { Model } from '../model.js';
import { Trainer, type TrainingMethod } from '../trainer.js';
import type { TrainEvent } from './events.js';
import { commandShape, type CommandOptions, type TrainingOptions } from './options.js';

function trainingMethod(options: CommandOptions): TrainingMethod {
  if (options.method === 'full') return { type: 'full' };
  return {
    type: options.method,
    r: options.loraR,
    alpha: options.loraAlpha,
    dropout: options.loraDropout,
    targetModules: options.targetModules,
    useRslora: options.useRslora,
    rankPattern: options.rankPattern,
    alphaPattern: options.alphaPattern,
    modulesToSave: options.modulesToSave,
    ...(options.initAdapter === undefined ? {} : { initAdapter: options.initAdapter }),
  };
}

export async function* runTraining(
  options: CommandOptions,
  { signal }: { signal?: AbortSignal } = {},
): AsyncGenerator<TrainEvent> {
  const training = Object.fromEntries(
    Object.entries(options).filter(([key]) => !(key in commandShape)),
  ) as TrainingOptions;
  const nf4 = options.doubleQuant ? 'nf4-double' : 'nf4';
  await using model = await Model.load(options.model, {
    dtype: options.dtype,
    quantization: options.method === 'qlora' ? nf4 : 'none',
    trainable: options.method === 'full',
    copyWeights: options.copyWeights,
    device: options.device,
    threads: options.threads,
    isa: options.isa,
    signal,
  });
  const trainer = new Trainer({
    ...training,
    model,
    method: trainingMethod(options),
    train: await loadDataset(options.data),
    ...(options.evalData === undefined ? {} : { validation: await loadDataset(options.evalData) }),
    outputDir: options.output,
    resumeFromCheckpoint: options.resumeFromCheckpoint,
    signal,
  });
  yield* trainer.run();
}
