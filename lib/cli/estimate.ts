// `lowrank estimate`: the memory plan of a run, without loading weights.

import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

import Table from 'cli-table3';
import type { Command } from 'commander';
import { z } from 'zod';

import { LowrankError } from '../errors.js';
import type { NativePlanReport } from '../native/addon.js';
import { loadAddon } from '../native/load_addon.js';
import {
  nativeLoraOptions,
  nativeModelOptions,
  nativeSessionOptions,
} from '../train/native_options.js';
import { commandShape, trainingShape } from '../train/options.js';
import { addFlags, kebab, parseOptions } from './flags.js';
import { formatBytes } from './progress.js';

const shape = {
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
const schema = z.strictObject(shape);

async function readConfig(model: string): Promise<string> {
  const info = await stat(model).catch(() => null);
  const path = info?.isDirectory() ? join(model, 'config.json') : model;
  return readFile(path, 'utf8').catch((cause: Error) => {
    throw new LowrankError('ERR_LOWRANK_IO', `cannot read: ${cause.message}`, { where: path });
  });
}

export async function estimateCommand(values: Record<string, unknown>): Promise<NativePlanReport> {
  const options = parseOptions(schema, values, (key) => `--${kebab(key)}`);
  const addon = loadAddon();
  return addon.estimate(
    { device: options.device, threads: options.threads, isa: options.isa },
    await readConfig(options.model),
    {
      model: nativeModelOptions(options),
      ...(options.method === 'full' ? {} : { lora: nativeLoraOptions(options) }),
      session: nativeSessionOptions(
        { ...z.strictObject(trainingShape).parse({}), ...options },
        { maxTokens: options.perDeviceTrainBatchSize * options.maxLength },
      ),
    },
  );
}

export function addEstimate(program: Command): void {
  const command = program
    .command('estimate')
    .description('Print the memory plan and predicted peak of a run, without loading weights.')
    .option('--json', 'print the plan as JSON');
  addFlags(command, shape).action(async () => {
    const { json, ...flags } = command.opts<Record<string, unknown>>();
    const plan = await estimateCommand(
      Object.fromEntries(Object.entries(flags).filter(([, value]) => value !== undefined)),
    );
    if (json) {
      process.stdout.write(JSON.stringify(plan) + '\n');
      return;
    }
    const table = new Table({
      head: ['memory', 'size'],
      colAligns: ['left', 'right'],
      style: { head: [], border: [], compact: true },
    });
    for (const { name, bytes } of plan.items) table.push([name, formatBytes(bytes)]);
    table.push(['predicted peak', formatBytes(plan.totalBytes)]);
    process.stdout.write(
      `${table.toString()}\ncheckpointing ${plan.checkpointing}: ${plan.recomputedLayers} of ${plan.layers} layers recomputed\n`,
    );
  });
}
