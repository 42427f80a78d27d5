// `lowrank eval`

import type { Command } from 'commander';
import { z } from 'zod';

import { Adapter } from '../adapter.js';
import { loadDataset } from '../data/index.js';
import { evaluate } from '../evaluate.js';
import { Model } from '../model.js';
import { commandShape, trainingShape } from '../train/options.js';
import { addFlags, kebab, parseOptions } from './flags.js';
import { stopOnSignals } from './signals.js';

const shape = {
  model: commandShape.model,
  adapter: z.string().optional().describe('PEFT adapter'),
  data: z.string().describe('data to evaluate on'),
  split: z
    .enum(['all', 'train', 'validation', 'test'])
    .default('all')
    .describe('which part of the data'),
  splitRatio: trainingShape.splitRatio,
  dtype: commandShape.dtype,
  quantization: z.enum(['none', 'nf4', 'nf4-double']).default('none').describe('of the base model'),
  maxLength: trainingShape.maxLength,
  perDeviceEvalBatchSize: trainingShape.perDeviceEvalBatchSize,
  maxBadRows: trainingShape.maxBadRows,
  chatTemplate: trainingShape.chatTemplate,
  device: commandShape.device,
  threads: commandShape.threads,
  isa: commandShape.isa,
};
const schema = z.strictObject(shape);

export function addEval(program: Command): void {
  const command = program
    .command('eval')
    .description('Loss, perplexity and token accuracy of a model on data.')
    .option('--json', 'print the result as JSON');
  addFlags(command, shape).action(async () => {
    const { json, ...flags } = command.opts<Record<string, unknown>>();
    const options = parseOptions(schema, flags, (key) => `--${kebab(key)}`);
    const stop = stopOnSignals();
    const { device, threads, isa, dtype, quantization } = options;
    const { signal } = stop;
    const model = await Model.load(options.model, {
      device,
      threads,
      isa,
      dtype,
      quantization,
      signal,
    });
    try {
      const adapter =
        options.adapter === undefined ? undefined : await Adapter.load(model, options.adapter);
      const result = await evaluate(model, await loadDataset(options.data), {
        adapter,
        split: options.split,
        splitRatio: options.splitRatio,
        maxLength: options.maxLength,
        batchSize: options.perDeviceEvalBatchSize,
        maxBadRows: options.maxBadRows,
        chatTemplate: options.chatTemplate,
        signal,
      });
      if (json) process.stdout.write(JSON.stringify(result) + '\n');
      else
        process.stdout.write(
          `loss ${result.loss.toFixed(4)}  perplexity ${result.perplexity.toFixed(3)}  ` +
            `token accuracy ${(100 * result.accuracy).toFixed(1)} %  ` +
            `(${result.labelTokens} label tokens of ${result.tokens})\n`,
        );
    } finally {
      stop.release();
      await model.dispose();
    }
  });
}
