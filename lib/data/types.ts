// What the data loader hands to the trainer and to reports.
import type { NativeMicroBatch } from '../native/addon.js';

export type SplitName = 'train' | 'validation' | 'test';
export const SPLIT_NAMES: readonly SplitName[] = ['train', 'validation', 'test'];

/** How a row was read; recognised by its keys. */
export type RowFormat =
  | 'chat' // messages
  | 'sharegpt' // conversations of {from, value}
  | 'alpaca' // instruction, input, output
  | 'prompt-completion'
  | 'text'
  | 'tokenized'; // input_ids, labels

/** One tokenized row. */
export interface Example {
  inputIds: Int32Array;
  /** Aligned with inputIds; -100 = not trained. The first is never trained. */
  labels: Int32Array;
  /** Aligned with labels; absent = all ones. */
  weights?: Float32Array;
  /** Place in the prepared data, over all splits. */
  index: number;
  /** Where it came from. */
  file: string;
  line: number;
}

/** Several examples laid end to end; no padding is ever computed. */
export interface MicroBatch extends NativeMicroBatch {
  /** Indices of the examples, one per document. */
  examples: Uint32Array;
  labelTokens: number;
}

export interface BadRow {
  file: string;
  line: number;
  /** What is wrong, and what to do. */
  message: string;
}

export interface BatchOptions {
  /** From 0. With `seed` it decides the order; default 0. */
  epoch?: number;
  seed?: number;
  /** Default false: the order of the files. */
  shuffle?: boolean;
  /** Examples (packed sequences when packing) per micro-batch; default 1. */
  perDeviceBatchSize?: number;
  /** Close a micro-batch before it would have more tokens than this. */
  maxTokens?: number;
  /** Fill sequences of `packLength` tokens with whole examples, best fit decreasing. */
  packing?: boolean;
  /** Default: the `maxLength` that the data was prepared with, else the longest example. */
  packLength?: number;
  /** Put examples of similar length into the same micro-batch (needs shuffle). */
  groupByLength?: boolean;
}

/** The micro-batches of one epoch, addressable by number: resuming is starting at another number. */
export interface BatchPlan {
  /** Number of micro-batches; the last one may be smaller, none is dropped. */
  readonly length: number;
  readonly tokens: number;
  readonly labelTokens: number;
  /** Of the largest micro-batch of this epoch. */
  readonly maxTokens: number;
  readonly maxLabels: number;
  /** Example indices of micro-batch `i`. */
  members(i: number): Uint32Array;
  batch(i: number): Promise<MicroBatch>;
}

export interface LengthStatistics {
  min: number;
  mean: number;
  p50: number;
  p90: number;
  p99: number;
  max: number;
}

export interface SplitReport {
  examples: number;
  tokens: number;
  labelTokens: number;
}

/** What was read and what became of it; plain data, can be written as JSON. */
export interface DataReport {
  sources: string[];
  /** SHA-256 of the data's bytes. */
  contentHash: string;
  /** Changes with the tokens, their order, what of them is trained, and how they are divided. */
  fingerprint: string;
  /** Rows per recognised format, with a sentence for people. */
  formats: { format: RowFormat; rows: number; description: string }[];
  rows: number;
  badRows: BadRow[];
  badRowCount: number;
  splits: Record<SplitName, SplitReport>;
  /** By the files' names, or by ratio and hash of the row's content. */
  splitBy: 'files' | 'hash';
  lengths: LengthStatistics;
  /** Rows cut at maxLength, and rows left out because they were too long. */
  truncated: number;
  tooLong: number;
  /** Rows left out because no token (or none within maxLength) is trained. */
  withoutLabels: number;
  duplicates: number;
  /** Rows in whose text somebody typed a special token such as <|im_end|>. */
  typedSpecialTokens: number;
  /** Examples in which a stop token is trained; undefined when no stop token is known. */
  withStopToken?: number;
  maxLength?: number;
  warnings: string[];
  cache: { folder: string; hit: boolean };
}

export interface PreparedData {
  readonly report: DataReport;
  count(split: SplitName): number;
  /** Example `index` as numbered in `MicroBatch.examples`. */
  example(index: number): Promise<Example>;
  /** All examples of a split in the order of the files. */
  examples(split: SplitName): AsyncIterable<Example>;
  /** Same data, options, seed and epoch: same plan. */
  plan(split: SplitName, options?: BatchOptions): Promise<BatchPlan>;
  /** Limits that hold for every epoch: what the engine's buffers must be laid out for. */
  bounds(
    split: SplitName,
    options?: BatchOptions,
  ): Promise<{ maxTokens: number; maxLabels: number }>;
  /** `plan()` read from micro-batch `start` (default 0) to the end. */
  batches(split: SplitName, options?: BatchOptions & { start?: number }): AsyncIterable<MicroBatch>;
  /** Frees the open file. */
  close(): Promise<void>;
}
