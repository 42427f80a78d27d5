// Prepared data: examples of the cache file divided into splits, and the micro-batches made of them.
import { LowrankError } from '../errors.js';
import type { CacheReader } from './cache.js';
import { inTurns, PIECE, type Pieces } from '../pause.js';
import { checkBatchOptions, type CheckedBatchOptions } from './options.js';
import { hash32 } from './order.js';
import { groupCount, type Groups } from './packing.js';
import { boundBatches, groupMembers, planBatches } from './plan.js';
import {
  SPLIT_NAMES,
  type BatchOptions,
  type BatchPlan,
  type DataReport,
  type Example,
  type MicroBatch,
  type PreparedData,
  type SplitName,
} from './types.js';

export type Splits = Record<SplitName, Uint32Array>;

/**
 * Divides examples by their rows' content: rows added later move none of the old ones, and equal rows
 * are on the same side. Rows that a file's name puts somewhere go there.
 */
export function* splitExamples(
  cache: CacheReader,
  shares: readonly [number, number, number],
  seed: number,
): Pieces<Splits> {
  const sum = shares[0] + shares[1] + shares[2];
  const sides = new Uint8Array(cache.count);
  const sizes = [0, 0, 0];
  for (let i = 0; i < cache.count; i++) {
    if (i % PIECE === 0) yield;
    const { split } = cache.place(i);
    const side = split ? SPLIT_NAMES.indexOf(split) : sideOf(cache.hash(i), shares, sum, seed);
    sides[i] = side;
    sizes[side]!++;
  }
  const lists = sizes.map((size) => new Uint32Array(size));
  const next = [0, 0, 0];
  for (let i = 0; i < cache.count; i++) {
    if (i % PIECE === 0) yield;
    lists[sides[i]!]![next[sides[i]!]!++] = i;
  }
  return { train: lists[0]!, validation: lists[1]!, test: lists[2]! };
}

function sideOf(
  hash: { high: number; low: number },
  shares: readonly [number, number, number],
  sum: number,
  seed: number,
): number {
  const point = (hash32(hash.high, hash.low, seed) / 2 ** 32) * sum;
  if (point < shares[0]) return 0;
  if (point < shares[0] + shares[1]) return 1;
  // Rounding must not put a row into a part whose share is zero.
  return shares[2] > 0 ? 2 : shares[1] > 0 ? 1 : 0;
}

export class CachedData implements PreparedData {
  constructor(
    private readonly cache: CacheReader,
    private readonly splits: Splits,
    readonly report: DataReport,
    private readonly fileNames: readonly string[],
    private readonly maxLength: number | undefined,
  ) {}

  count(split: SplitName): number {
    return this.splits[split].length;
  }

  async example(index: number): Promise<Example> {
    if (!Number.isInteger(index) || index < 0 || index >= this.cache.count) {
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', `there is no example ${index}`, {
        hint: `Examples are numbered from 0 to ${this.cache.count - 1}.`,
      });
    }
    const length = this.cache.length(index);
    const arrays = {
      inputIds: new Int32Array(length),
      labels: new Int32Array(length),
      ...(this.cache.hasWeights(index) && { weights: new Float32Array(length) }),
    };
    await this.cache.read(index, arrays, 0);
    const { file, line } = this.cache.place(index);
    return { ...arrays, index, file: this.fileNames[file] ?? '', line };
  }

  async *examples(split: SplitName): AsyncGenerator<Example> {
    for (const index of this.splits[split]) yield await this.example(index);
  }

  async plan(split: SplitName, options: BatchOptions = {}): Promise<BatchPlan> {
    const { groups, ...totals } = await inTurns(
      this.planned(this.splits[split], checkBatchOptions(options)),
    );
    const length = groupCount(groups);
    const members = (i: number): Uint32Array => {
      if (!Number.isInteger(i) || i < 0 || i >= length) {
        throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', `there is no micro-batch ${i}`, {
          hint: `This epoch has ${length}.`,
        });
      }
      return groupMembers(groups, i);
    };
    const batch = (i: number): Promise<MicroBatch> => this.read(members(i));
    return { length, ...totals, members, batch };
  }

  async bounds(
    split: SplitName,
    options: BatchOptions = {},
  ): Promise<{ maxTokens: number; maxLabels: number }> {
    const checked = checkBatchOptions(options);
    const examples = this.splits[split];
    const capacity = await inTurns(this.capacity(examples, checked));
    return inTurns(boundBatches(examples, this.cache, checked, capacity));
  }

  async *batches(
    split: SplitName,
    options: BatchOptions & { start?: number } = {},
  ): AsyncGenerator<MicroBatch> {
    const { start = 0, ...rest } = options;
    const plan = await this.plan(split, rest);
    for (let i = start; i < plan.length; i++) yield await plan.batch(i);
  }

  async close(): Promise<void> {
    await this.cache.close();
  }

  private *planned(
    examples: Uint32Array,
    options: CheckedBatchOptions,
  ): Pieces<Omit<BatchPlan, 'length' | 'members' | 'batch'> & { groups: Groups }> {
    const capacity = yield* this.capacity(examples, options);
    const groups = yield* planBatches(examples, this.cache, options, capacity);
    let tokens = 0;
    let labelTokens = 0;
    let maxTokens = 0;
    let maxLabels = 0;
    for (let i = 0; i < groupCount(groups); i++) {
      if (i % (PIECE / 4) === 0) yield;
      let batchTokens = 0;
      let batchLabels = 0;
      for (const example of groupMembers(groups, i)) {
        batchTokens += this.cache.length(example);
        batchLabels += this.cache.labelTokens(example);
      }
      tokens += batchTokens;
      labelTokens += batchLabels;
      maxTokens = Math.max(maxTokens, batchTokens);
      maxLabels = Math.max(maxLabels, batchLabels);
    }
    return { groups, tokens, labelTokens, maxTokens, maxLabels };
  }

  private *capacity(examples: Uint32Array, options: CheckedBatchOptions): Pieces<number> {
    let longest = 1;
    for (let i = 0; i < examples.length; i++) {
      if (i % PIECE === 0) yield;
      longest = Math.max(longest, this.cache.length(examples[i]!));
    }
    const capacity = options.packLength ?? this.maxLength ?? longest;
    if (options.packing && longest > capacity) {
      throw new LowrankError(
        'ERR_LOWRANK_INVALID_ARGUMENT',
        `an example of ${longest} tokens doesn't fit into packed sequences of ${capacity}`,
        {
          where: 'packLength',
          hint: `Use ${longest} or more, or prepare the data with that maxLength.`,
        },
      );
    }
    return capacity;
  }

  private async read(members: Uint32Array): Promise<MicroBatch> {
    const documentOffsets = new Int32Array(members.length + 1);
    members.forEach((example, i) => {
      documentOffsets[i + 1] = documentOffsets[i]! + this.cache.length(example);
    });
    const tokens = documentOffsets[members.length]!;
    const arrays = {
      inputIds: new Int32Array(tokens),
      labels: new Int32Array(tokens),
      ...(members.some((example) => this.cache.hasWeights(example)) && {
        weights: new Float32Array(tokens),
      }),
    };
    await Promise.all(
      Array.from(members, (example, i) => this.cache.read(example, arrays, documentOffsets[i]!)),
    );
    const labelTokens = members.reduce((sum, example) => sum + this.cache.labelTokens(example), 0);
    return { ...arrays, documentOffsets, examples: members.slice(), labelTokens };
  }
}
