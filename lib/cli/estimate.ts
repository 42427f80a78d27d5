// `lowrank estimate`: the memory plan of a run, without loading weights.

import Table from 'cli-table3';
import type { Command } from 'commander';

import { estimateParsed, estimateSchema, estimateShape } from '../estimate.js';
import { addFlags, kebab, parseOptions } from './flags.js';
import { formatBytes } from './progress.js';

export function addEstimate(program: Command): void {
  const command = program
    .command('estimate')
    .description('Print the memory plan and predicted peak of a run, without loading weights.')
    .option('--json', 'print the plan as JSON');
  addFlags(command, estimateShape).action(async () => {
    const { json, ...flags } = command.opts<Record<string, unknown>>();
    const given = Object.fromEntries(
      Object.entries(flags).filter(([, value]) => value !== undefined),
    );
    const plan = await estimateParsed(
      parseOptions(estimateSchema, given, (key) => `--${kebab(key)}`),
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
