// `lowrank bench train|kernels|memory|decode`: what the engine reaches on this machine, as a table or
// as JSON, with the share of a peak that was measured beside it.

import Table from 'cli-table3';
import type { Command } from 'commander';
import { z } from 'zod';

import { benchDecode } from '../bench/decode.js';
import { benchKernels } from '../bench/kernels.js';
import { benchMemory } from '../bench/memory.js';
import { saveResults } from '../bench/results.js';
import { SHAPE_NAMES } from '../bench/shapes.js';
import { benchTrain } from '../bench/train.js';
import type { NativeProfileRow } from '../native/addon.js';
import { trainingShape } from '../train/options.js';
import { addFlags, kebab, parseOptions } from './flags.js';
import { formatBytes } from './progress.js';

const shape = z
  .string()
  .default('smollm2-135m')
  .describe(`${SHAPE_NAMES.join(', ')}, or a config.json`);
const dtype = z.enum(['f32', 'bf16']).default('bf16').describe('type of activations and weights');
const seq = z.number().int().positive().default(512);
const processor = {
  threads: z.number().int().positive().optional().describe('CPU threads'),
  isa: z.string().optional().describe('instruction set'),
};
const device = {
  device: z.string().default('auto').describe('cpu, cuda, cuda:N or auto'),
  ...processor,
};
const results = z.string().optional().describe('folder to append the rows to, as CSV');
const profile = z.boolean().default(false).describe('show the time of every operation');
const steps = (count: number, text: string) =>
  z.number().int().positive().default(count).describe(text);

const trainShape = {
  shape,
  method: z.enum(['lora', 'qlora', 'full']).default('lora').describe('what is trained'),
  dtype,
  seq: seq.describe('tokens per sequence'),
  batch: z.number().int().positive().default(1).describe('sequences per step'),
  documents: z.number().int().positive().default(1).describe('documents packed into a sequence'),
  steps: steps(3, 'measured steps, after one to warm up'),
  checkpointing: z.enum(['none', 'block', 'auto']).default('auto').describe('what is recomputed'),
  memoryBudget: trainingShape.memoryBudget,
  ...device,
  profile,
  results,
};
const kernelsShape = {
  shape,
  dtype,
  seq: seq.describe('rows of the operations'),
  steps: steps(10, 'measured runs of each operation'),
  filter: z.string().optional().describe('only operations with this in their name'),
  ...device,
  results,
};
const memoryShape = {
  shape: z.array(z.string()).default(['smollm2-135m', 'qwen2.5-0.5b']).describe('shapes'),
  dtype,
  seq: z.array(z.coerce.number().int().positive()).default([256, 1024, 2048]).describe('lengths'),
  ...processor,
  results,
};
const decodeShape = {
  shape,
  quantization: z.enum(['none', 'nf4', 'nf4-double']).default('none').describe('of the weights'),
  dtype,
  seq: seq.describe('tokens in the cache'),
  steps: steps(32, 'measured tokens'),
  ...device,
  profile,
  results,
};

function table(head: string[], rows: (string | number)[][]): string {
  const result = new Table({ head, style: { head: [], border: [], compact: true } });
  result.push(...rows);
  return result.toString() + '\n';
}
async function collect<T>(rows: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const row of rows) all.push(row);
  return all;
}
const percent = (share: number) => (Number.isFinite(share) ? `${(share * 100).toFixed(1)} %` : '');
const giga = (rate: number) => (rate / 1e9).toFixed(1);
const milliseconds = (seconds: number) => (seconds * 1e3).toPrecision(4);

/** The operations of `steps` steps that took `seconds` each, against a peak where one is given. */
function profileTable(rows: NativeProfileRow[], steps: number, seconds: number, peak?: number) {
  return table(
    ['operation', 'shape', 'calls', 'ms a step', 'share', 'of peak', 'GB/s'],
    rows.map((r) => [
      r.op,
      r.shape,
      r.calls / steps,
      milliseconds(r.seconds / steps),
      percent(r.seconds / (steps * seconds)),
      peak !== undefined && r.flops > 0 ? percent(r.flops / r.seconds / peak) : '',
      giga(r.bytes / r.seconds),
    ]),
  );
}

const trainSchema = z.strictObject(trainShape);

async function trainCommand(options: z.output<typeof trainSchema>, json: boolean) {
  const { row, profile } = await benchTrain(options);
  if (options.results) await saveResults(options.results, 'train', [row]);
  if (json) return JSON.stringify(options.profile ? { row, profile } : { row }) + '\n';
  let text =
    `${row.shape} ${row.method} ${row.dtype}, ${row.batch} x ${row.seq} tokens, ${row.isa}, ${row.threads} threads\n` +
    `${row.seconds_per_step.toFixed(3)} s a step (${row.seconds_min.toFixed(3)} to ${row.seconds_max.toFixed(3)}), ` +
    `${row.tokens_per_second.toFixed(1)} tokens/s\n` +
    `${percent(row.share_of_peak)} of the measured peak of ${giga(row.peak_flops_per_second)} GFLOP/s, ` +
    `${percent(row.mfu)} without recomputation\n` +
    `peak memory ${formatBytes(row.peak_memory_bytes)}, of which planned ${formatBytes(row.planned_bytes)}\n`;
  if (options.profile)
    text += profileTable(profile, options.steps, row.seconds_per_step, row.peak_flops_per_second);
  return text;
}

const kernelsSchema = z.strictObject(kernelsShape);

async function kernelsCommand(options: z.output<typeof kernelsSchema>, json: boolean) {
  const rows = await collect(benchKernels(options));
  if (options.results) await saveResults(options.results, 'kernels', rows);
  if (json) return JSON.stringify(rows) + '\n';
  return table(
    ['operation', 'size', 'weight', 'ms', 'min', 'max', 'GFLOP/s', 'of peak', 'GB/s'],
    rows.map((r) => [
      r.op,
      r.size,
      r.storage,
      milliseconds(r.seconds),
      milliseconds(r.seconds_min),
      milliseconds(r.seconds_max),
      r.flops_per_second > 0 ? giga(r.flops_per_second) : '',
      r.flops_per_second > 0 ? percent(r.share_of_peak) : '',
      giga(r.bytes_per_second),
    ]),
  );
}

const memorySchema = z.strictObject(memoryShape);

async function memoryCommand(options: z.output<typeof memorySchema>, json: boolean) {
  const { shape: shapes, seq: seqs, ...others } = options;
  const rows = await collect(benchMemory({ shapes, seqs, ...others }));
  if (options.results) await saveResults(options.results, 'memory', rows);
  if (json) return JSON.stringify(rows) + '\n';
  return table(
    ['shape', 'method', 'tokens', 'checkpointing', 'predicted', 'measured', 'ratio'],
    rows.map((r) => [
      r.shape,
      r.method,
      r.seq,
      r.checkpointing,
      formatBytes(r.predicted_bytes),
      formatBytes(r.measured_bytes),
      r.ratio.toFixed(3),
    ]),
  );
}

const decodeSchema = z.strictObject(decodeShape);

async function decodeCommand(options: z.output<typeof decodeSchema>, json: boolean) {
  const { row, profile } = await benchDecode(options);
  if (options.results) await saveResults(options.results, 'decode', [row]);
  if (json) return JSON.stringify(options.profile ? { row, profile } : row) + '\n';
  let text =
    `${row.shape} ${row.quantization} ${row.dtype}, ${row.seq} tokens in the cache, ${row.isa}, ${row.threads} threads\n` +
    `${row.tokens_per_second.toFixed(1)} tokens/s, ${giga(row.read_bytes_per_second)} GB/s read: ` +
    `${percent(row.share_of_bandwidth)} of the measured bandwidth; prefill ${row.prefill_tokens_per_second.toFixed(0)} tokens/s\n`;
  if (options.profile) text += profileTable(profile, options.steps, 1 / row.tokens_per_second);
  return text;
}

function addCommand<S extends z.ZodRawShape>(
  bench: Command,
  name: string,
  description: string,
  options: S,
  run: (options: z.output<z.ZodObject<S>>, json: boolean) => Promise<string>,
) {
  const command = bench
    .command(name)
    .description(description)
    .option('--json', 'print one line of JSON');
  addFlags(command, options as unknown as Record<string, z.ZodType>).action(async () => {
    const { json, ...flags } = command.opts<Record<string, unknown>>();
    const given = Object.fromEntries(
      Object.entries(flags).filter(([, value]) => value !== undefined),
    );
    const parsed = parseOptions(z.strictObject(options), given, (key) => `--${kebab(key)}`);
    process.stdout.write(await run(parsed as z.output<z.ZodObject<S>>, json === true));
  });
}

export function addBench(program: Command): void {
  const bench = program.command('bench').description('Measure the engine on this machine.');
  addCommand(
    bench,
    'train',
    'Whole training steps on random weights of a named shape.',
    trainShape,
    trainCommand,
  );
  addCommand(
    bench,
    'kernels',
    'Single operations at the sizes of a named shape.',
    kernelsShape,
    kernelsCommand,
  );
  addCommand(
    bench,
    'memory',
    'The memory plan against what processes need.',
    memoryShape,
    memoryCommand,
  );
  addCommand(bench, 'decode', 'Generation of one sequence.', decodeShape, decodeCommand);
}
