// What the trainer asks of its data: the micro-batches of an epoch, in an order that is a pure
// function of the seed and the epoch, addressable by number so that a run can go on anywhere.

import type { PreparedData, SplitName } from '../data/index.js';
import type { NativeMicroBatch } from '../native/addon.js';

export interface EpochBatches {
  readonly length: number;
  batch(index: number): Promise<NativeMicroBatch>;
}

export interface BatchSource {
  /** Rows behind the batches, for the report. */
  readonly examples: number;
  /** Tokens and labels of the largest micro-batch of any epoch; the engine's buffers are laid out for it. */
  readonly maxBatchTokens: number;
  readonly maxBatchLabels: number;
  /** Changes when the data, its order or its tokenization would. */
  readonly fingerprint: string;
  epoch(epoch: number): Promise<EpochBatches>;
}

export interface PreparedSourceOptions {
  seed: number;
  shuffle: boolean;
  perDeviceBatchSize: number;
  packing: boolean;
  maxLength: number;
}

export async function preparedSource(
  data: PreparedData,
  split: SplitName,
  options: PreparedSourceOptions,
): Promise<BatchSource> {
  const batchOptions = {
    seed: options.seed,
    shuffle: options.shuffle,
    perDeviceBatchSize: options.perDeviceBatchSize,
    packing: options.packing,
    ...(options.packing ? { packLength: options.maxLength } : {}),
  };
  const bounds = await data.bounds(split, batchOptions);
  return {
    examples: data.count(split),
    maxBatchTokens: bounds.maxTokens,
    maxBatchLabels: bounds.maxLabels,
    fingerprint: data.report.fingerprint,
    async epoch(epoch) {
      const plan = await data.plan(split, { ...batchOptions, epoch });
      return {
        length: plan.length,
        async batch(index) {
          // The addon refuses keys that it doesn't know.
          const { inputIds, labels, weights, documentOffsets } = await plan.batch(index);
          return { inputIds, labels, weights, documentOffsets };
        },
      };
    },
  };
}

export interface Position {
  epoch: number;
  /** Micro-batch inside the epoch. */
  batch: number;
}

/** Hands out the micro-batches of one optimizer step after the other; the last step of an epoch has those that are left. */
export class StepReader {
  private current: EpochBatches | null = null;

  constructor(
    private readonly source: BatchSource,
    private readonly perStep: number,
    readonly position: Position = { epoch: 0, batch: 0 },
  ) {}

  async next(): Promise<NativeMicroBatch[]> {
    this.current ??= await this.source.epoch(this.position.epoch);
    if (this.position.batch >= this.current.length) {
      this.position.epoch++;
      this.position.batch = 0;
      this.current = await this.source.epoch(this.position.epoch);
    }
    const from = this.position.batch;
    const to = Math.min(this.current.length, from + this.perStep);
    const batches: NativeMicroBatch[] = [];
    for (let i = from; i < to; i++) batches.push(await this.current.batch(i));
    this.position.batch = to;
    return batches;
  }

  /** Epochs done, as a fraction. */
  get epochs(): number {
    return this.position.epoch + this.position.batch / Math.max(1, this.current?.length ?? 1);
  }
}

/** Optimizer steps in `epochs` passes; a fraction of an epoch counts the steps begun in it. */
export async function countSteps(
  source: BatchSource,
  perStep: number,
  epochs: number,
): Promise<number> {
  let steps = 0;
  for (let epoch = 0; epoch < Math.ceil(epochs); epoch++) {
    const inEpoch = Math.ceil((await source.epoch(epoch)).length / perStep);
    steps += Math.ceil(inEpoch * Math.min(1, epochs - epoch));
  }
  return steps;
}
