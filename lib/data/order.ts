// Orders and random numbers that depend on a seed and on counters alone: the same on every machine and
// with any number of threads, and without state that a checkpoint would have to keep.
import { PIECE, type Pieces } from '../pause.js';

/** MurmurHash3 (x86, 32 bits; Appleby, 2008) of three 32-bit numbers. */
export function hash32(a: number, b: number, c: number): number {
  let h = round(round(round(0x9747b28c, a), b), c);
  h ^= 12; // bytes
  h ^= h >>> 16;
  h = Math.imul(h, 0x85ebca6b);
  h ^= h >>> 13;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

function round(h: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51);
  k = (k << 15) | (k >>> 17);
  h ^= Math.imul(k, 0x1b873593);
  h = (h << 13) | (h >>> 19);
  return (Math.imul(h, 5) + 0xe6546b64) | 0;
}

/** 0 .. n-1. */
export function identity(n: number): Uint32Array {
  const order = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  return order;
}

/** Shuffles in place (Fisher-Yates); `use` keeps several shuffles of one epoch apart. */
export function* shuffle(
  items: Uint32Array,
  seed: number,
  epoch: number,
  use = 0,
): Pieces<Uint32Array> {
  const key = hash32(seed, Math.floor(seed / 2 ** 32), use);
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor((hash32(key, epoch, i) / 2 ** 32) * (i + 1));
    const item = items[i]!;
    items[i] = items[j]!;
    items[j] = item;
    if (i % PIECE === 0) yield;
  }
  return items;
}
