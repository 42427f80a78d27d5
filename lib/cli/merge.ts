// `lowrank merge`

import type { Command } from 'commander';

import { mergeAdapter } from '../model.js';

interface MergeFlags {
  model: string;
  adapter: string;
  output: string;
  device: string;
  json?: boolean;
}

export function addMerge(program: Command): void {
  program
    .command('merge')
    .description(
      'Write a model folder with an adapter merged in (f32 arithmetic, checked by reloading).',
    )
    .requiredOption('--model <folder>', 'the base model, with its original weights')
    .requiredOption('--adapter <folder>', 'a PEFT adapter')
    .requiredOption('--output <folder>', 'where the merged model goes')
    .option('--device <device>', 'cpu, cuda, cuda:N or auto', 'auto')
    .option('--json', 'print the report as JSON')
    .action(async (options: MergeFlags) => {
      const { device } = options;
      const report = await mergeAdapter(options.model, options.adapter, options.output, { device });
      if (options.json) process.stdout.write(JSON.stringify(report) + '\n');
      else
        process.stderr.write(
          `merged ${report.tensorsMerged} tensors into ${options.output}; reloaded logits differ by at most ` +
            `${report.maxLogitDifference.toExponential(2)} (largest logit ${report.maxLogit.toFixed(2)})\n`,
        );
    });
}
