// `lowrank eval`

import type { Command } from 'commander';
import { z } from 'zod';

import { loadDataset } from '../data/index.js';
import { evaluate } from '../evaluate.js';
import { trainingShape } from '../train/options.js';
import { addFlags, kebab, parseOptions } from './flags.js';
import { modelShape, withModel } from './with_model.js';

const shape = {
  ...modelShape,
  data: z.string().describe('data to evaluate on'),
  split: z
    .enum(['all', 'train', 'validation', 'test'])
    .default('all')
    .describe('which part of the data'),
  splitRatio: trainingShape.splitRatio,
  maxLength: trainingShape.maxLength,
  perDeviceEvalBatchSize: trainingShape.perDeviceEvalBatchSize,
  maxBadRows: trainingShape.maxBadRows,
  chatTemplate: trainingShape.chatTemplate,
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
    await withModel(options, async ({ model, adapter, signal }) => {
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
    });
  });
}
