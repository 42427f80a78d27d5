// The memory plan of a training run, from config.json alone.
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { z } from 'zod';

import { LowrankError } from './errors.js';
import { callSync } from './native/call.js';
import { loadAddon } from './native/load_addon.js';
import {
  nativeLoraOptions,
  nativeModelOptions,
  nativeSessionOptions,
} from './train/native_options.js';
import { commandShape, trainingShape } from './train/options.js';
import { parseOptions } from './validate.js';

export const estimateShape = {
  model: z.string().describe('model folder, or a config.json'),
  method: commandShape.method,
  dtype: commandShape.dtype,
  doubleQuant: commandShape.doubleQuant,
  loraR: commandShape.loraR,
  loraAlpha: commandShape.loraAlpha,
  loraDropout: commandShape.loraDropout,
  useRslora: commandShape.useRslora,
  targetModules: commandShape.targetModules,
  rankPattern: commandShape.rankPattern,
  alphaPattern: commandShape.alphaPattern,
  modulesToSave: commandShape.modulesToSave,
  device: commandShape.device,
  threads: commandShape.threads,
  isa: commandShape.isa,
  optim: trainingShape.optim,
  perDeviceTrainBatchSize: trainingShape.perDeviceTrainBatchSize,
  maxLength: trainingShape.maxLength,
  gradientCheckpointing: trainingShape.gradientCheckpointing,
  memoryBudget: trainingShape.memoryBudget,
};
export const estimateSchema = z.strictObject(estimateShape);

/** Names and defaults are those of `lowrank train`; only `model` is needed. */
export type EstimateOptions = z.input<typeof estimateSchema>;

export interface MemoryPlan {
  /** "weights", "adapter", "gradients", "optimizer", "activations", "workspace", "device". */
  items: { name: string; bytes: number }[];
  /** Predicted peak, without what the process had before. */
  totalBytes: number;
  /** Layers whose activations are computed again in the backward pass. */
  recomputedLayers: number;
  layers: number;
  checkpointing: string;
}

/**
 * Memory that a training run will take, without loading weights. A folder that bitsandbytes quantized
 * to NF4 counts as it is stored. Throws ERR_LOWRANK_UNSUPPORTED for what the engine can't load.
 */
export async function estimate(options: EstimateOptions): Promise<MemoryPlan> {
  return estimateParsed(parseOptions(estimateSchema, options, 'estimate'));
}

export async function estimateParsed(
  options: z.output<typeof estimateSchema>,
): Promise<MemoryPlan> {
  const config = await readConfig(options.model);
  const { device, threads, isa } = options;
  const session = nativeSessionOptions(
    { ...z.strictObject(trainingShape).parse({}), ...options },
    { maxTokens: options.perDeviceTrainBatchSize * options.maxLength },
  );
  return callSync(() =>
    loadAddon().estimate({ device, threads, isa }, config, {
      model: nativeModelOptions(options),
      ...(options.method === 'full' ? {} : { lora: nativeLoraOptions(options) }),
      session,
    }),
  );
}

async function readConfig(model: string): Promise<string> {
  const info = await stat(model).catch(() => null);
  const path = info?.isDirectory() ? join(model, 'config.json') : model;
  return readFile(path, 'utf8').catch((cause: Error) => {
    throw new LowrankError('ERR_LOWRANK_IO', `cannot read: ${cause.message}`, { where: path });
  });
}
