// Generation of one sequence, against the memory bandwidth measured beside it: every token reads
// every weight once, so bandwidth is the limit.

import type { NativeProfileRow } from '../native/addon.js';
import { loadAddon } from '../native/load_addon.js';
import { shapeConfig } from './shapes.js';
import { median } from './statistics.js';

export interface DecodeBenchOptions {
  shape: string;
  quantization: 'none' | 'nf4' | 'nf4-double';
  dtype: 'f32' | 'bf16';
  /** Tokens in the cache before the measured ones. */
  seq: number;
  steps: number;
  device?: string;
  threads?: number;
  isa?: string;
  profile?: boolean;
}

export interface DecodeBenchRow {
  shape: string;
  quantization: string;
  dtype: string;
  seq: number;
  threads: number;
  isa: string;
  tokens_per_second: number;
  seconds_min: number;
  seconds_max: number;
  prefill_tokens_per_second: number;
  bytes_per_token: number;
  read_bytes_per_second: number;
  share_of_bandwidth: number;
}

/** The profile is of the measured tokens; keeping it takes some of their time. */
export async function benchDecode(
  options: DecodeBenchOptions,
): Promise<{ row: DecodeBenchRow; profile: NativeProfileRow[] }> {
  const addon = loadAddon();
  const { threads, isa } = options;
  const device = { device: options.device ?? 'auto', threads, isa };
  const model = await addon.createModel(
    { ...device, profile: options.profile ?? false },
    await shapeConfig(options.shape, options.dtype),
    { compute: options.dtype, quantization: options.quantization, trainable: false },
    1,
  );
  const info = model.info();
  const generator = await model.createGenerator(null, options.seq + options.steps + 8);
  const prompt = Int32Array.from({ length: options.seq }, (_, i) => (i * 7919) % info.vocabulary);
  const began = performance.now();
  await generator.prefill(prompt);
  const prefill = (performance.now() - began) / 1000;
  await model.takeProfile();
  const seconds: number[] = [];
  const rates: number[] = [];
  for (let step = 0; step < options.steps; step++) {
    if (step % 8 === 0) rates.push(await addon.measurePeak(device, 'memory'));
    const started = performance.now();
    await generator.next({ temperature: 0, topK: 0, topP: 1, seed: 0 });
    seconds.push((performance.now() - started) / 1000);
  }
  const profile = await model.takeProfile();
  // One row of an input embedding of its own is next to nothing.
  const embedding = info.vocabulary * info.hidden * (options.dtype === 'bf16' ? 2 : 4);
  const weights = info.weightBytes - (info.tiedEmbeddings ? 0 : embedding);
  const width = 2 * info.layers * info.kvHeads * info.headDim;
  const cache = width * options.seq * (options.dtype === 'bf16' ? 2 : 4);
  const bytes = weights + cache;
  const perToken = median(seconds);
  await generator.dispose();
  await model.dispose();
  const row = {
    shape: options.shape,
    quantization: options.quantization,
    dtype: options.dtype,
    seq: options.seq,
    threads: addon.describeDevice(device).threads,
    isa: info.isa,
    tokens_per_second: 1 / perToken,
    seconds_min: Math.min(...seconds),
    seconds_max: Math.max(...seconds),
    prefill_tokens_per_second: options.seq / prefill,
    bytes_per_token: bytes,
    read_bytes_per_second: bytes / perToken,
    share_of_bandwidth: bytes / perToken / median(rates),
  };
  return { row, profile };
}
