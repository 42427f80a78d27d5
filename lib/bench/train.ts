// Whole training steps on random weights of a named shape, against the peak measured beside them.

import { loadAddon } from '../native/load_addon.js';
import type {
  NativeDeviceOptions,
  NativeMicroBatch,
  NativeModel,
  NativeProfileRow,
} from '../native/addon.js';
import {
  nativeLoraOptions,
  nativeModelOptions,
  nativeSessionOptions,
} from '../train/native_options.js';
import { commandSchema, trainingSchema } from '../train/options.js';
import { flopsPerToken, shapeConfig } from './shapes.js';
import { median } from './statistics.js';

const LORA_RANK = 16;

export interface TrainBenchOptions {
  shape: string;
  method: 'lora' | 'qlora' | 'full';
  dtype: 'f32' | 'bf16';
  seq: number;
  batch: number;
  /** Documents that a sequence is made of, each as long as the others. */
  documents?: number;
  steps: number;
  checkpointing?: 'none' | 'block' | 'auto';
  /** Bytes that the plan may use; `auto` recomputes as little as fits. */
  memoryBudget?: number;
  device?: string;
  threads?: number;
  isa?: string;
  profile?: boolean;
}

export interface TrainBenchRow {
  shape: string;
  method: string;
  dtype: string;
  seq: number;
  batch: number;
  documents: number;
  checkpointing: string;
  threads: number;
  isa: string;
  seconds_per_step: number;
  seconds_min: number;
  seconds_max: number;
  tokens_per_second: number;
  /** FLOPs that ran, recomputation and adapters included, per second and per measured peak. */
  share_of_peak: number;
  /** FLOPs that the step needs (flopsPerToken), per second and per measured peak. */
  mfu: number;
  peak_flops_per_second: number;
  seconds_to_first_step: number;
  /** Largest resident set of the process, and what it was before the model. */
  peak_memory_bytes: number;
  process_bytes: number;
  /** What the memory plan says the device needs. */
  planned_bytes: number;
  loss: number;
}

/** Random token ids, `documents` to a sequence, every token labelled; the same at every call. */
export function randomBatch(
  vocabulary: number,
  sequence: number,
  count: number,
  documents = 1,
): NativeMicroBatch {
  const tokens = sequence * count;
  const inputIds = new Int32Array(tokens);
  let state = 12345;
  for (let i = 0; i < tokens; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    inputIds[i] = Math.floor((state / 4294967296) * vocabulary);
  }
  const parts = count * documents;
  const documentOffsets = Int32Array.from({ length: parts + 1 }, (_, i) =>
    Math.round((i * tokens) / parts),
  );
  return { inputIds, labels: inputIds.slice(), documentOffsets };
}

/** FLOPs per second in products that the device reaches with operands of this type. */
export async function productPeak(
  device: NativeDeviceOptions,
  dtype: 'f32' | 'bf16',
): Promise<number> {
  const { profile: _, ...plain } = device;
  return loadAddon().measurePeak(plain, dtype);
}

async function freshModel(options: TrainBenchOptions, device: NativeDeviceOptions) {
  const command = commandSchema.parse({
    model: '-',
    data: '-',
    output: '-',
    method: options.method,
    dtype: options.dtype,
    loraR: LORA_RANK,
    loraAlpha: 32,
  });
  const model: NativeModel = await loadAddon().createModel(
    device,
    await shapeConfig(options.shape, options.dtype),
    { ...nativeModelOptions(command), maxLength: options.seq },
    1,
  );
  const adapter =
    options.method === 'full' ? null : await model.createAdapter(nativeLoraOptions(command), 1);
  return { model, adapter };
}

/** One warm-up step, then `steps` measured ones. The profile is of the measured steps. */
export async function benchTrain(
  options: TrainBenchOptions,
): Promise<{ row: TrainBenchRow; profile: NativeProfileRow[] }> {
  const addon = loadAddon();
  const { threads, isa, profile = false, documents = 1 } = options;
  const device = { device: options.device ?? 'auto', threads, isa, profile };
  const processBytes = addon.memory().residentBytes;
  const began = performance.now();
  const { model, adapter } = await freshModel(options, device);
  const info = model.info();
  const batch = randomBatch(info.vocabulary, options.seq, options.batch, documents);
  const tokens = batch.inputIds.length;
  const session = await model.createSession(
    adapter,
    nativeSessionOptions(
      trainingSchema.parse({
        gradientCheckpointing: options.checkpointing ?? 'auto',
        memoryBudget: options.memoryBudget,
      }),
      { maxTokens: tokens },
    ),
  );
  const seconds: number[] = [];
  const peaks: number[] = [];
  let loss = 0;
  let toFirstStep = 0;
  for (let step = 1; step <= options.steps + 1; step++) {
    if (step > 1) peaks.push(await productPeak(device, options.dtype));
    const started = performance.now();
    const result = await session.step([batch], { learningRate: 1e-4, step });
    loss = result.loss;
    if (step > 1) {
      seconds.push((performance.now() - started) / 1000);
    } else {
      toFirstStep = (performance.now() - began) / 1000;
      await model.takeProfile();
    }
  }
  const rows = await model.takeProfile();
  const perStep = median(seconds);
  const peak = median(peaks);
  const length = options.seq / documents;
  const adapterParameters = adapter?.info().parameters ?? 0;
  const needed = tokens * flopsPerToken(info, length, options.method, adapterParameters);
  const plan = session.plan();
  const again = plan.recomputedLayers / plan.layers;
  const ofLast = adapter ? LORA_RANK * (info.hidden + info.intermediate) * info.layers : 0;
  const ran =
    needed + tokens * again * flopsPerToken(info, length, 'recompute', adapterParameters - ofLast);
  const row: TrainBenchRow = {
    shape: options.shape,
    method: options.method,
    dtype: options.dtype,
    seq: options.seq,
    batch: options.batch,
    documents,
    checkpointing: plan.checkpointing,
    threads: addon.describeDevice({ device: device.device, threads, isa }).threads,
    isa: info.isa,
    seconds_per_step: perStep,
    seconds_min: Math.min(...seconds),
    seconds_max: Math.max(...seconds),
    tokens_per_second: tokens / perStep,
    share_of_peak: ran / perStep / peak,
    mfu: needed / perStep / peak,
    peak_flops_per_second: peak,
    seconds_to_first_step: toFirstStep,
    peak_memory_bytes: addon.memory().peakResidentBytes,
    process_bytes: processBytes,
    planned_bytes: plan.totalBytes,
    loss,
  };
  await session.dispose();
  await adapter?.dispose();
  await model.dispose();
  return { row, profile: rows };
}
