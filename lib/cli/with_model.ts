// What the commands that read a model share: its options, and loading it until the command is over.

import { z } from 'zod';

import { Adapter } from '../adapter.js';
import { Model } from '../model.js';
import { commandShape } from '../train/options.js';
import { stopOnSignals } from './signals.js';

export const modelShape = {
  model: commandShape.model,
  adapter: z.string().optional().describe('PEFT adapter'),
  dtype: commandShape.dtype,
  quantization: z.enum(['none', 'nf4', 'nf4-double']).default('none').describe('of the base model'),
  device: commandShape.device,
  threads: commandShape.threads,
  isa: commandShape.isa,
};
const modelSchema = z.object(modelShape);

export interface LoadedModel {
  model: Model;
  adapter?: Adapter;
  /** Ctrl-C and SIGTERM. */
  signal: AbortSignal;
}

/** Loads model and adapter, runs the body, and frees them whatever happens. */
export async function withModel(
  options: z.output<typeof modelSchema>,
  body: (loaded: LoadedModel) => Promise<void>,
): Promise<void> {
  const stop = stopOnSignals();
  const { signal } = stop;
  const { device, threads, isa, dtype, quantization } = options;
  try {
    // A command that ends soon would spend more on copying than it gains.
    const load = { device, threads, isa, dtype, quantization, copyWeights: false, signal };
    const model = await Model.load(options.model, load);
    try {
      const adapter =
        options.adapter === undefined ? undefined : await Adapter.load(model, options.adapter);
      await body({ model, adapter, signal });
    } finally {
      await model.dispose();
    }
  } finally {
    stop.release();
  }
}
