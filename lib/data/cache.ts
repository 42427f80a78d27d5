// The tokenized data on disk: one folder per key, absent or complete (written under another name, then
// renamed).
//   tokens.bin  per example: ids, labels, and weights if it has any (int32, int32, float32; little-endian)
//   index.bin   per example: eight uint32, see Field
//   meta.json   what was read; written last
import { createHash, randomBytes } from 'node:crypto';
import {
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  type FileHandle,
} from 'node:fs/promises';
import path from 'node:path';
import { LowrankError } from '../errors.js';
import type { TokenizedRow } from './tokenize.js';
import { SPLIT_NAMES, type BadRow, type RowFormat, type SplitName } from './types.js';

/** Bump when the meaning of the files, or of what is written into them, changes. */
export const CACHE_VERSION = 2;

const FIELDS = 8;
const enum Field {
  OffsetLow,
  OffsetHigh,
  Length,
  LabelTokens,
  HashLow,
  HashHigh,
  Line,
  Flags, // bit 0 weights, bit 1 a stop token is trained, bits 2-3 split by file name + 1, then the file
}

export interface CacheMeta {
  version: number;
  contentHash: string;
  formats: Partial<Record<RowFormat, number>>;
  rows: number;
  badRows: BadRow[];
  badRowCount: number;
  truncated: number;
  tooLong: number;
  withoutLabels: number;
  typedSpecialTokens: number;
  /** The first row that was left out because nothing in it is trained. */
  sample?: { file: string; line: number; inputIds: number[]; labels: number[] };
  examples: number;
  tokenBytes: number;
  /** SHA-256 over the examples' arrays, in order, with their lengths. */
  tokensHash: string;
}

/** What the writer itself knows of CacheMeta. */
export type WrittenMeta = 'version' | 'examples' | 'tokenBytes' | 'tokensHash';

export interface NewExample extends TokenizedRow {
  hash: { high: number; low: number };
  file: number;
  line: number;
  split?: SplitName;
  hasStopToken: boolean;
}

export class CacheWriter {
  private offset = 0;
  private count = 0;
  private tokenBuffer: Buffer[] = [];
  private buffered = 0;
  private indexBuffer: Buffer[] = [];
  private readonly hash = createHash('sha256');

  private constructor(
    private readonly folder: string,
    private readonly tokens: FileHandle,
    private readonly index: FileHandle,
  ) {}

  static async create(cacheDir: string): Promise<CacheWriter> {
    await mkdir(cacheDir, { recursive: true });
    await removeLeftovers(cacheDir);
    const folder = path.join(cacheDir, `building-${process.pid}-${randomBytes(6).toString('hex')}`);
    await mkdir(folder);
    const tokens = await open(path.join(folder, 'tokens.bin'), 'wx');
    const index = await open(path.join(folder, 'index.bin'), 'wx');
    return new CacheWriter(folder, tokens, index);
  }

  async add(example: NewExample): Promise<void> {
    const { inputIds, labels, weights } = example;
    this.hash.update(Uint32Array.of(inputIds.length, weights ? 1 : 0));
    for (const array of [inputIds, labels, ...(weights ? [weights] : [])]) {
      const bytes = Buffer.from(array.buffer, array.byteOffset, array.byteLength);
      this.tokenBuffer.push(bytes);
      this.hash.update(bytes);
      this.buffered += array.byteLength;
    }
    const record = new Uint32Array(FIELDS);
    record[Field.OffsetLow] = this.offset % 2 ** 32;
    record[Field.OffsetHigh] = Math.floor(this.offset / 2 ** 32);
    record[Field.Length] = inputIds.length;
    record[Field.LabelTokens] = countLabels(labels);
    record[Field.HashLow] = example.hash.low;
    record[Field.HashHigh] = example.hash.high;
    record[Field.Line] = example.line;
    const split = example.split === undefined ? 0 : SPLIT_NAMES.indexOf(example.split) + 1;
    record[Field.Flags] =
      (weights ? 1 : 0) | (example.hasStopToken ? 2 : 0) | (split << 2) | (example.file << 4);
    this.indexBuffer.push(Buffer.from(record.buffer));
    this.offset += inputIds.length * (weights ? 12 : 8);
    this.count++;
    if (this.buffered > 1 << 20) await this.flush();
  }

  /** Finishes the folder under its name; another process may have been faster, its folder then stays. */
  async finish(target: string, meta: Omit<CacheMeta, WrittenMeta>): Promise<void> {
    await this.flush();
    for (const handle of [this.tokens, this.index]) {
      await handle.sync();
      await handle.close();
    }
    const complete: CacheMeta = {
      version: CACHE_VERSION,
      ...meta,
      examples: this.count,
      tokenBytes: this.offset,
      tokensHash: this.hash.digest('hex'),
    };
    const file = await open(path.join(this.folder, 'meta.json'), 'wx');
    await file.writeFile(JSON.stringify(complete));
    await file.sync();
    await file.close();
    try {
      await rename(this.folder, target);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      await rm(this.folder, { recursive: true, force: true });
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST' && code !== 'EPERM') throw error;
    }
  }

  async discard(): Promise<void> {
    await Promise.allSettled([this.tokens.close(), this.index.close()]);
    await rm(this.folder, { recursive: true, force: true });
  }

  private async flush(): Promise<void> {
    const [tokens, index] = [this.tokenBuffer, this.indexBuffer];
    this.tokenBuffer = [];
    this.indexBuffer = [];
    this.buffered = 0;
    if (tokens.length > 0) await this.tokens.writeFile(Buffer.concat(tokens));
    if (index.length > 0) await this.index.writeFile(Buffer.concat(index));
  }
}

/** Reads single examples from the file; only the index (32 bytes per example) is held in memory. */
export class CacheReader {
  private constructor(
    readonly folder: string,
    readonly meta: CacheMeta,
    private readonly index: Uint32Array,
    private readonly tokens: FileHandle,
  ) {}

  /** Undefined when there is no such folder, or when it is damaged (it is then removed). */
  static async open(folder: string): Promise<CacheReader | undefined> {
    let text: string;
    try {
      text = await readFile(path.join(folder, 'meta.json'), 'utf8');
    } catch {
      await rm(folder, { recursive: true, force: true });
      return undefined;
    }
    let tokens: FileHandle | undefined;
    try {
      const meta = JSON.parse(text) as CacheMeta;
      const bytes = await readFile(path.join(folder, 'index.bin'));
      tokens = await open(path.join(folder, 'tokens.bin'), 'r');
      const { size } = await tokens.stat();
      const whole =
        meta.version === CACHE_VERSION &&
        bytes.length === meta.examples * FIELDS * 4 &&
        size === meta.tokenBytes;
      if (whole) {
        const index = new Uint32Array(meta.examples * FIELDS);
        Buffer.from(index.buffer).set(bytes);
        return new CacheReader(folder, meta, index, tokens);
      }
    } catch {
      // falls through: built anew
    }
    await tokens?.close();
    await rm(folder, { recursive: true, force: true });
    return undefined;
  }

  get count(): number {
    return this.meta.examples;
  }

  length(example: number): number {
    return this.field(example, Field.Length);
  }

  labelTokens(example: number): number {
    return this.field(example, Field.LabelTokens);
  }

  hasStopToken(example: number): boolean {
    return (this.field(example, Field.Flags) & 2) !== 0;
  }

  hash(example: number): { high: number; low: number } {
    return { high: this.field(example, Field.HashHigh), low: this.field(example, Field.HashLow) };
  }

  place(example: number): { file: number; line: number; split?: SplitName } {
    const flags = this.field(example, Field.Flags);
    const split = (flags >>> 2) & 3;
    const line = this.field(example, Field.Line);
    return { file: flags >>> 4, line, ...(split > 0 && { split: SPLIT_NAMES[split - 1] }) };
  }

  /** Reads one example into the three arrays at `at` (weights are ones where the example has none). */
  async read(
    example: number,
    into: { inputIds: Int32Array; labels: Int32Array; weights?: Float32Array },
    at: number,
  ): Promise<void> {
    const n = this.length(example);
    const weighted = this.hasWeights(example);
    const bytes = new Uint8Array(n * (weighted ? 12 : 8));
    const position =
      this.field(example, Field.OffsetHigh) * 2 ** 32 + this.field(example, Field.OffsetLow);
    const { bytesRead } = await this.tokens.read(bytes, 0, bytes.length, position);
    if (bytesRead !== bytes.length) {
      throw new LowrankError('ERR_LOWRANK_IO', 'the tokenized data was changed while in use', {
        where: path.join(this.folder, 'tokens.bin'),
        hint: 'Remove the folder; it is built anew at the next start.',
      });
    }
    into.inputIds.set(new Int32Array(bytes.buffer, 0, n), at);
    into.labels.set(new Int32Array(bytes.buffer, 4 * n, n), at);
    if (!into.weights) return;
    if (weighted) into.weights.set(new Float32Array(bytes.buffer, 8 * n, n), at);
    else into.weights.fill(1, at, at + n);
  }

  hasWeights(example: number): boolean {
    return (this.field(example, Field.Flags) & 1) !== 0;
  }

  async close(): Promise<void> {
    await this.tokens.close();
  }

  private field(example: number, field: Field): number {
    return this.index[example * FIELDS + field]!;
  }
}

export function countLabels(labels: Int32Array): number {
  let count = 0;
  for (const label of labels) if (label >= 0) count++;
  return count;
}

// Folders that a killed process left behind, a day later.
async function removeLeftovers(cacheDir: string): Promise<void> {
  for (const name of await readdir(cacheDir)) {
    if (!name.startsWith('building-')) continue;
    const folder = path.join(cacheDir, name);
    const info = await stat(folder).catch(() => undefined);
    if (info && Date.now() - info.mtimeMs > 86_400_000)
      await rm(folder, { recursive: true, force: true });
  }
}
