// Best-fit decreasing: the longest example first, each into the bin with the least room that it still
// fits into. Uses at most 11/9 of the optimal number of bins, plus one (Johnson, 1973).
import { PIECE, type Pieces } from '../pause.js';

/** Items of group g are `members[offsets[g] .. offsets[g + 1])`. */
export interface Groups {
  members: Uint32Array;
  offsets: Uint32Array;
}

export function groupCount(groups: Groups): number {
  return groups.offsets.length - 1;
}

/**
 * Packs `items` into bins of `capacity` tokens; `length(item)` must not exceed the capacity. Items of
 * one length keep their order, so the outcome depends on the order of `items` and on nothing else.
 */
export function* packBestFitDecreasing(
  items: Uint32Array,
  length: (item: number) => number,
  capacity: number,
): Pieces<Groups> {
  const sorted = yield* sortByLengthDescending(items, length, capacity);
  const binOf = new Uint32Array(sorted.length);
  const sizes: number[] = []; // items per bin
  const room: number[] = []; // free tokens per bin
  // Bins by free room: a stack per amount (linked through `below`), and a bit set of non-empty stacks.
  const top = new Int32Array(capacity + 1).fill(-1);
  const below: number[] = [];
  const bits = new Uint32Array((capacity >>> 5) + 1);
  for (let at = 0; at < sorted.length; at++) {
    if (at % PIECE === 0) yield;
    const need = length(sorted[at]!);
    const free = nextSetBit(bits, need);
    let bin: number;
    if (free < 0) {
      bin = sizes.length;
      sizes.push(0);
      room.push(capacity);
      below.push(-1);
    } else {
      bin = top[free]!;
      top[free] = below[bin]!;
      if (top[free] < 0) bits[free >>> 5]! &= ~(1 << (free & 31));
    }
    binOf[at] = bin;
    sizes[bin]!++;
    const left = (room[bin]! -= need);
    if (left > 0) {
      below[bin] = top[left]!;
      top[left] = bin;
      bits[left >>> 5]! |= 1 << (left & 31);
    }
  }
  const offsets = new Uint32Array(sizes.length + 1);
  for (let bin = 0; bin < sizes.length; bin++) {
    if (bin % PIECE === 0) yield;
    offsets[bin + 1] = offsets[bin]! + sizes[bin]!;
  }
  const next = offsets.slice();
  const members = new Uint32Array(sorted.length);
  for (let at = 0; at < sorted.length; at++) {
    if (at % PIECE === 0) yield;
    members[next[binOf[at]!]!++] = sorted[at]!;
  }
  return { members, offsets };
}

/** Stable counting sort by length, longest first. */
export function* sortByLengthDescending(
  items: Uint32Array,
  length: (item: number) => number,
  longest: number,
): Pieces<Uint32Array> {
  const starts = new Uint32Array(longest + 2);
  for (let i = 0; i < items.length; i++) {
    if (i % PIECE === PIECE - 1) yield;
    const tokens = length(items[i]!);
    if (tokens > longest) throw new RangeError(`an item of ${tokens} tokens, over ${longest}`);
    starts[longest - tokens + 1]!++;
  }
  for (let i = 1; i < starts.length; i++) starts[i]! += starts[i - 1]!;
  const sorted = new Uint32Array(items.length);
  for (let i = 0; i < items.length; i++) {
    if (i % PIECE === PIECE - 1) yield;
    sorted[starts[longest - length(items[i]!)]!++] = items[i]!;
  }
  return sorted;
}

function nextSetBit(bits: Uint32Array, from: number): number {
  let word = from >>> 5;
  let value = bits[word]! & (0xffffffff << (from & 31));
  while (value === 0) {
    if (++word >= bits.length) return -1;
    value = bits[word]!;
  }
  return (word << 5) + (31 - Math.clz32(value & -value));
}
