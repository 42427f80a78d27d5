// Which examples make up which micro-batch: a function of lengths, options, seed and epoch alone.
// Planned in pieces, because a large data set takes longer than the event loop may wait.
import { PIECE, type Pieces } from '../pause.js';
import type { CheckedBatchOptions } from './options.js';
import { identity, shuffle } from './order.js';
import {
  groupCount,
  packBestFitDecreasing,
  sortByLengthDescending,
  type Groups,
} from './packing.js';

export interface ExampleSizes {
  length(example: number): number;
  labelTokens(example: number): number;
}

const SHUFFLE_EXAMPLES = 0;
const SHUFFLE_SEQUENCES = 1;
const SHUFFLE_BATCHES = 2;

/** Examples per group of similar length, in micro-batches (as Transformers' group_by_length). */
const LENGTH_WINDOW = 50;

/** `examples`: a split's, in the order of the files. Returns the members of each micro-batch. */
export function* planBatches(
  examples: Uint32Array,
  sizes: ExampleSizes,
  options: CheckedBatchOptions,
  capacity: number,
): Pieces<Groups> {
  const { shuffle: shuffled, seed, epoch, perDeviceBatchSize } = options;
  const order = examples.slice();
  if (shuffled) yield* shuffle(order, seed, epoch, SHUFFLE_EXAMPLES);
  const length = (example: number): number => sizes.length(example);
  let sequences: Groups;
  if (options.packing) {
    sequences = yield* packBestFitDecreasing(order, length, capacity);
    if (shuffled) sequences = yield* reorder(sequences, seed, epoch, SHUFFLE_SEQUENCES);
  } else {
    if (options.groupByLength && shuffled) yield* groupByLength(order, length, perDeviceBatchSize);
    sequences = { members: order, offsets: identity(order.length + 1) };
  }
  const batches = yield* cut(sequences, length, perDeviceBatchSize, options.maxTokens);
  const regroup = options.groupByLength && shuffled && !options.packing;
  return regroup ? yield* reorder(batches, seed, epoch, SHUFFLE_BATCHES) : batches;
}

/** The largest micro-batch that any epoch can have. */
export function* boundBatches(
  examples: Uint32Array,
  sizes: ExampleSizes,
  options: CheckedBatchOptions,
  capacity: number,
): Pieces<{ maxTokens: number; maxLabels: number }> {
  // Packed lengths don't depend on the epoch, only which example of a length goes where; labels do.
  const packed = options.packing
    ? yield* packBestFitDecreasing(examples, (example) => sizes.length(example), capacity)
    : { members: examples, offsets: identity(examples.length + 1) };
  const tokens = new Float64Array(groupCount(packed));
  const length = (example: number): number => sizes.length(example);
  let longest = 0;
  for (let g = 0; g < tokens.length; g++) {
    if (g % PIECE === 0) yield;
    tokens[g] = groupLength(packed, g, length);
    longest = Math.max(longest, tokens[g]!);
  }
  let maxTokens = yield* sumOfLargest(tokens, options.perDeviceBatchSize);
  if (options.maxTokens !== undefined)
    maxTokens = Math.min(maxTokens, Math.max(options.maxTokens, longest));
  if (options.packing) return { maxTokens, maxLabels: maxTokens };
  const labels = new Float64Array(examples.length);
  for (let i = 0; i < labels.length; i++) {
    if (i % PIECE === 0) yield;
    labels[i] = sizes.labelTokens(examples[i]!);
  }
  const maxLabels = yield* sumOfLargest(labels, options.perDeviceBatchSize);
  return { maxTokens, maxLabels: Math.min(maxTokens, maxLabels) };
}

export function groupMembers(groups: Groups, group: number): Uint32Array {
  return groups.members.subarray(groups.offsets[group], groups.offsets[group + 1]);
}

function groupLength(
  { members, offsets }: Groups,
  group: number,
  length: (example: number) => number,
): number {
  let sum = 0;
  const end = offsets[group + 1]!;
  for (let i = offsets[group]!; i < end; i++) sum += length(members[i]!);
  return sum;
}

// Of whole numbers. Pieces are sorted by themselves, each together with the largest so far.
function* sumOfLargest(values: Float64Array, count: number): Pieces<number> {
  let largest = new Float64Array(0);
  for (let at = 0; at < values.length; at += PIECE) {
    yield;
    const piece = values.subarray(at, at + PIECE);
    const both = new Float64Array(largest.length + piece.length);
    both.set(largest);
    both.set(piece, largest.length);
    largest = both.sort().subarray(-count);
  }
  return largest.reduce((a, b) => a + b, 0);
}

// Joins sequences into micro-batches of at most `count` sequences and `maxTokens` tokens (a single
// sequence may be longer).
function* cut(
  sequences: Groups,
  length: (example: number) => number,
  count: number,
  maxTokens = Infinity,
): Pieces<Groups> {
  const offsets = [0];
  let inBatch = 0;
  let tokens = 0;
  const total = groupCount(sequences);
  for (let s = 0; s < total; s++) {
    if (s % PIECE === 0) yield;
    const size = groupLength(sequences, s, length);
    if (inBatch === count || (inBatch > 0 && tokens + size > maxTokens)) {
      offsets.push(sequences.offsets[s]!);
      inBatch = 0;
      tokens = 0;
    }
    inBatch++;
    tokens += size;
  }
  if (inBatch > 0) offsets.push(sequences.members.length);
  return { members: sequences.members, offsets: Uint32Array.from(offsets) };
}

function* reorder(groups: Groups, seed: number, epoch: number, use: number): Pieces<Groups> {
  const order = yield* shuffle(identity(groupCount(groups)), seed, epoch, use);
  const members = new Uint32Array(groups.members.length);
  const offsets = new Uint32Array(order.length + 1);
  for (let i = 0; i < order.length; i++) {
    if (i % PIECE === 0) yield;
    const from = groupMembers(groups, order[i]!);
    members.set(from, offsets[i]!);
    offsets[i + 1] = offsets[i]! + from.length;
  }
  return { members, offsets };
}

// In place: windows of the shuffled order, each sorted by length.
function* groupByLength(
  order: Uint32Array,
  length: (example: number) => number,
  batchSize: number,
): Pieces<void> {
  const window = batchSize * LENGTH_WINDOW;
  for (let at = 0; at < order.length; at += window) {
    yield;
    const part = order.subarray(at, at + window);
    const longest = part.reduce((max, example) => Math.max(max, length(example)), 0);
    part.set(yield* sortByLengthDescending(part, length, longest));
  }
}
