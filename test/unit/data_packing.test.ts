import { describe, expect, test } from 'vitest';
import { checkBatchOptions } from '../../lib/data/options.js';
import { hash32, identity, shuffle } from '../../lib/data/order.js';
import { groupCount, packBestFitDecreasing, type Groups } from '../../lib/data/packing.js';
import { boundBatches, groupMembers, planBatches } from '../../lib/data/plan.js';
import { atOnce } from '../../lib/pause.js';

function pack(
  lengths: readonly number[],
  capacity: number,
  order = identity(lengths.length),
): number[][] {
  const groups = atOnce(packBestFitDecreasing(order, (i) => lengths[i]!, capacity));
  return lists(groups);
}

function lists(groups: Groups): number[][] {
  return Array.from({ length: groupCount(groups) }, (_, i) => Array.from(groupMembers(groups, i)));
}

// Pseudo-random numbers from a counter, so that a failure can be run again.
function numbers(seed: number, count: number, least: number, most: number): number[] {
  return Array.from({ length: count }, (_, i) => least + (hash32(seed, i, 1) % (most - least + 1)));
}

// The fewest bins, by trying every way to put the items in.
function fewest(lengths: readonly number[], capacity: number): number {
  let best = lengths.length;
  const rooms: number[] = [];
  const place = (i: number): void => {
    if (rooms.length >= best) return;
    if (i === lengths.length) {
      best = rooms.length;
      return;
    }
    for (let bin = 0; bin < rooms.length; bin++) {
      if (rooms[bin]! < lengths[i]!) continue;
      rooms[bin]! -= lengths[i]!;
      place(i + 1);
      rooms[bin]! += lengths[i]!;
    }
    rooms.push(capacity - lengths[i]!);
    place(i + 1);
    rooms.pop();
  };
  place(0);
  return best;
}

describe('best-fit decreasing', () => {
  test('takes the fullest bin that fits', () => {
    expect(pack([5, 7, 3, 4, 1], 10)).toEqual([
      [1, 2],
      [0, 3, 4],
    ]);
    // First fit would put the 2 beside the 6; best fit leaves that room for the 4.
    expect(pack([7, 6, 2, 4, 1], 10)).toEqual([
      [0, 2, 4],
      [1, 3],
    ]);
    expect(pack([10, 10], 10)).toEqual([[0], [1]]);
    expect(pack([], 10)).toEqual([]);
    expect(() => pack([11], 10)).toThrow(RangeError);
  });

  test('stays within 11/9 of the best on small cases, and mostly reaches it', () => {
    let reached = 0;
    for (let seed = 0; seed < 200; seed++) {
      const lengths = numbers(seed, 9, 1, 30);
      const best = fewest(lengths, 32);
      const bins = pack(lengths, 32).length;
      expect(bins).toBeLessThanOrEqual(Math.floor((11 / 9) * best + 1));
      if (bins === best) reached++;
    }
    expect(reached).toBeGreaterThan(180);
  });

  test.each([1, 31, 32, 33, 64, 1000])(
    'loses nothing and overfills nothing (capacity %i)',
    (capacity) => {
      for (let seed = 0; seed < 20; seed++) {
        const lengths = numbers(seed, 300, 1, capacity);
        const order = atOnce(shuffle(identity(300), seed, 0));
        const bins = pack(lengths, capacity, order);
        expect(bins.flat().sort((a, b) => a - b)).toEqual(Array.from(identity(300)));
        const sums = bins.map((bin) => bin.reduce((sum, i) => sum + lengths[i]!, 0));
        expect(Math.max(...sums)).toBeLessThanOrEqual(capacity);
        // Two bins that would fit into one: best fit never leaves such a pair.
        const [first, second] = sums.sort((a, b) => a - b);
        expect(first! + (second ?? capacity)).toBeGreaterThan(sums.length > 1 ? capacity : 0);
      }
    },
  );

  test('the order decides which of equal length goes where, not how many bins there are', () => {
    const lengths = numbers(3, 500, 1, 100);
    const sizes = (seed: number): number[] =>
      pack(lengths, 100, atOnce(shuffle(identity(500), seed, 0))).map((bin) =>
        bin.reduce((sum, i) => sum + lengths[i]!, 0),
      );
    expect(sizes(1)).toEqual(sizes(2));
  });
});

describe('shuffle', () => {
  // Numbers of another implementation of the same formulas.
  test('is the same every time and everywhere', () => {
    expect(Array.from(atOnce(shuffle(identity(10), 42, 0)))).toEqual([
      0, 4, 8, 7, 5, 9, 2, 3, 6, 1,
    ]);
    expect(hash32(1, 2, 3)).toBe(1932100742);
  });

  test('depends on seed, epoch and use, and moves everything everywhere', () => {
    const orders = new Set<string>();
    for (const [seed, epoch, use] of [
      [1, 0, 0],
      [2, 0, 0],
      [2 ** 32 + 1, 0, 0],
      [1, 1, 0],
      [1, 0, 1],
    ] as const) {
      orders.add(atOnce(shuffle(identity(50), seed, epoch, use)).join());
    }
    expect(orders.size).toBe(5);
    // Each of 5 items should be first in about a fifth of 5,000 epochs; 6 standard deviations are 170.
    const first = [0, 0, 0, 0, 0];
    for (let epoch = 0; epoch < 5000; epoch++) first[atOnce(shuffle(identity(5), 7, epoch))[0]!]!++;
    for (const count of first) expect(Math.abs(count - 1000)).toBeLessThan(170);
  });
});

describe('micro-batches', () => {
  const lengths = numbers(11, 103, 2, 50);
  const sizes = {
    length: (i: number) => lengths[i]!,
    labelTokens: (i: number) => lengths[i]! >> 1,
  };
  const plan = (options: Parameters<typeof checkBatchOptions>[0]): number[][] =>
    lists(atOnce(planBatches(identity(103), sizes, checkBatchOptions(options), 50)));
  const tokens = (batch: readonly number[]): number =>
    batch.reduce((sum, i) => sum + lengths[i]!, 0);

  test('without shuffle they follow the files, and the last one is smaller', () => {
    const batches = plan({ perDeviceBatchSize: 4 });
    expect(batches[0]).toEqual([0, 1, 2, 3]);
    expect(batches).toHaveLength(26);
    expect(batches.at(-1)).toEqual([100, 101, 102]);
  });

  const variants = [
    { shuffle: true },
    { shuffle: true, packing: true },
    { shuffle: true, groupByLength: true },
    { shuffle: true, maxTokens: 100 },
    { shuffle: true, packing: true, maxTokens: 100 },
    { packing: true },
  ];
  test.each(variants)('%j: every example once, the bounds hold in every epoch', (variant) => {
    const options = { ...variant, perDeviceBatchSize: 3 };
    const bounds = atOnce(boundBatches(identity(103), sizes, checkBatchOptions(options), 50));
    const seen = new Set<string>();
    for (let epoch = 0; epoch < 5; epoch++) {
      const batches = plan({ ...options, epoch });
      expect(batches).toEqual(plan({ ...options, epoch }));
      expect(batches.flat().sort((a, b) => a - b)).toEqual(Array.from(identity(103)));
      expect(Math.max(...batches.map(tokens))).toBeLessThanOrEqual(bounds.maxTokens);
      expect(Math.max(...batches.map(tokens))).toBeLessThanOrEqual(variant.maxTokens ?? Infinity);
      const labels = batches.map((batch) =>
        batch.reduce((sum, i) => sum + sizes.labelTokens(i), 0),
      );
      expect(Math.max(...labels)).toBeLessThanOrEqual(bounds.maxLabels);
      seen.add(JSON.stringify(batches));
    }
    expect(seen.size).toBe(variant.shuffle ? 5 : 1);
  });

  test('groups of similar length differ less than a shuffle', () => {
    const spread = (batches: number[][]): number =>
      batches.reduce((sum, batch) => {
        const own = batch.map((i) => lengths[i]!);
        return sum + Math.max(...own) - Math.min(...own);
      }, 0);
    const options = { shuffle: true, perDeviceBatchSize: 4 };
    expect(spread(plan({ ...options, groupByLength: true }))).toBeLessThan(
      spread(plan(options)) / 4,
    );
  });

  test('wrong options are named', () => {
    expect(() => checkBatchOptions({ perDeviceBatchSize: 0 })).toThrow(/>=1|>0/);
    expect(() => checkBatchOptions({ batchSize: 2 } as never)).toThrow('batchSize');
  });
});
