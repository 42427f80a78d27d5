// `lowrank bench train`: tokens per second of whole steps on random weights of a named shape.

import type { Command } from 'commander';
import { z } from 'zod';

import { flopsPerToken, SHAPE_NAMES, shapeConfig } from '../bench/shapes.js';
import { loadAddon } from '../native/load_addon.js';
import type { NativeMicroBatch, NativeModel } from '../native/addon.js';
import {
  nativeLoraOptions,
  nativeModelOptions,
  nativeSessionOptions,
} from '../train/native_options.js';
import { commandSchema, trainingSchema } from '../train/options.js';
import { addFlags, kebab, parseOptions } from './flags.js';
import { formatBytes } from './progress.js';

const shape = {
  shape: z
    .string()
    .default('smollm2-135m')
    .describe(`${SHAPE_NAMES.join(', ')}, or a config.json`),
  method: z.enum(['lora', 'qlora', 'full']).default('lora').describe('what is trained'),
  dtype: z.enum(['f32', 'bf16']).default('bf16').describe('type of activations'),
  seq: z.number().int().positive().default(512).describe('tokens per sequence'),
  batch: z.number().int().positive().default(1).describe('sequences per step'),
  steps: z.number().int().positive().default(3).describe('measured steps, after one to warm up'),
  threads: z.number().int().positive().optional().describe('CPU threads'),
  isa: z.string().optional().describe('instruction set'),
};
const schema = z.strictObject(shape);
type BenchOptions = z.output<typeof schema>;

/** Random token ids, one document per sequence, every token labelled; the same at every call. */
function randomBatch(vocabulary: number, sequence: number, count: number): NativeMicroBatch {
  const tokens = sequence * count;
  const inputIds = new Int32Array(tokens);
  let state = 12345;
  for (let i = 0; i < tokens; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    inputIds[i] = Math.floor((state / 4294967296) * vocabulary);
  }
  const documentOffsets = Int32Array.from({ length: count + 1 }, (_, i) => i * sequence);
  return { inputIds, labels: inputIds.slice(), documentOffsets };
}

async function benchTrain(options: BenchOptions) {
  const addon = loadAddon();
  const device = { device: 'cpu', threads: options.threads, isa: options.isa };
  const command = commandSchema.parse({
    model: '-',
    data: '-',
    output: '-',
    method: options.method,
    dtype: options.dtype,
    loraR: 16,
    loraAlpha: 32,
  });
  const model: NativeModel = await addon.createModel(
    device,
    await shapeConfig(options.shape),
    { ...nativeModelOptions(command), maxLength: options.seq },
    1,
  );
  const adapter =
    options.method === 'full' ? null : await model.createAdapter(nativeLoraOptions(command), 1);
  const tokens = options.seq * options.batch;
  const session = await model.createSession(
    adapter,
    nativeSessionOptions(trainingSchema.parse({}), { maxTokens: tokens }),
  );
  const info = model.info();
  const batch = randomBatch(info.vocabulary, options.seq, options.batch);
  const seconds: number[] = [];
  let loss = 0;
  for (let step = 1; step <= options.steps + 1; step++) {
    const started = performance.now();
    const result = await session.step([batch], { learningRate: 1e-4, step });
    loss = result.loss;
    if (step > 1) seconds.push((performance.now() - started) / 1000);
  }
  seconds.sort((a, b) => a - b);
  const median = seconds[Math.floor(seconds.length / 2)]!;
  const flops = flopsPerToken(info, options.seq, options.method, adapter?.info().parameters ?? 0);
  const row = {
    shape: options.shape,
    method: options.method,
    dtype: options.dtype,
    seq: options.seq,
    batch: options.batch,
    threads: addon.describeDevice(device).threads,
    isa: info.isa,
    seconds_per_step: median,
    seconds_min: seconds[0]!,
    seconds_max: seconds.at(-1)!,
    tokens_per_second: tokens / median,
    flops_per_second: (tokens / median) * flops,
    peak_memory_bytes: addon.memory().peakResidentBytes,
    planned_bytes: session.plan().totalBytes,
    loss,
  };
  await session.dispose();
  await adapter?.dispose();
  await model.dispose();
  return row;
}

export function addBench(program: Command): void {
  const bench = program.command('bench').description('Measure the engine on this machine.');
  const train = bench
    .command('train')
    .description('Whole training steps on random weights of a named shape.')
    .option('--json', 'print one JSON object');
  addFlags(train, shape).action(async () => {
    const { json, ...flags } = train.opts<Record<string, unknown>>();
    const given = Object.fromEntries(
      Object.entries(flags).filter(([, value]) => value !== undefined),
    );
    const row = await benchTrain(parseOptions(schema, given, (key) => `--${kebab(key)}`));
    if (json) process.stdout.write(JSON.stringify(row) + '\n');
    else
      process.stdout.write(
        `${row.shape} ${row.method} ${row.dtype} ${row.batch} x ${row.seq} on ${row.isa}, ${row.threads} threads\n` +
          `${row.seconds_per_step.toFixed(3)} s a step (${row.seconds_min.toFixed(3)} to ${row.seconds_max.toFixed(3)}), ` +
          `${row.tokens_per_second.toFixed(1)} tokens/s, ${(row.flops_per_second / 1e9).toFixed(0)} GFLOP/s, ` +
          `peak ${formatBytes(row.peak_memory_bytes)} (planned ${formatBytes(row.planned_bytes)})\n`,
      );
  });
}
