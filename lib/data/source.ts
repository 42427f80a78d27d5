// Where rows come from: files told apart by their ending, a folder of them, or any iterable. Rows are
// handed on in small batches, so that memory stays bounded and one row costs no promise.
import { createHash, type Hash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { LowrankError } from '../errors.js';
import { readCsv } from './read_csv.js';
import { readJson } from './read_json.js';
import { readJsonLines } from './read_jsonl.js';
import { readParquet } from './read_parquet.js';
import type { SplitName } from './types.js';

/** A row, or why there is none. `line` is 1-based (the row's number where there are no lines). */
export type SourceRow = { line: number; value: unknown } | { line: number; error: string };

export interface Source {
  /** As shown in messages. */
  name: string;
  /** The part that a file's name puts it into. */
  split?: SplitName;
  /** Size in bytes, for progress. */
  bytes: number;
  rows(signal?: AbortSignal): AsyncIterable<SourceRow[]>;
  /** Feeds the content into the hash; false when it can't be known without reading the rows. */
  hash(hash: Hash, signal?: AbortSignal): Promise<boolean>;
}

type Reader = (file: string, signal?: AbortSignal) => AsyncIterable<SourceRow[]>;

const READERS: Record<string, Reader> = {
  '.jsonl': readJsonLines,
  '.ndjson': readJsonLines,
  '.json': readJson,
  '.csv': (file) => readCsv(file, ','),
  '.tsv': (file) => readCsv(file, '\t'),
  '.parquet': readParquet,
};
const ENDINGS = Object.keys(READERS).join(', ');

// Whole words at the start of a file's name, as people name the parts of a data set.
const SPLIT_NAMES: [RegExp, SplitName][] = [
  [/^train(ing)?(?![a-z])/i, 'train'],
  [/^(valid(ation)?|val|dev|eval(uation)?)(?![a-z])/i, 'validation'],
  [/^test(ing)?(?![a-z])/i, 'test'],
];

/** A file, or all readable files of a folder (and its folders) in order of name. */
export async function openPath(location: string): Promise<Source[]> {
  const info = await stat(location).catch((cause: unknown) => {
    throw new LowrankError('ERR_LOWRANK_IO', 'there is no such file or folder', {
      where: location,
      hint: `Give a file (${ENDINGS}) or a folder of them.`,
      cause,
    });
  });
  if (!info.isDirectory()) return [await openFile(location, location)];
  const names = await readdir(location, { recursive: true });
  const files = names
    .filter((name) => READERS[path.extname(name).toLowerCase()] !== undefined)
    .filter((name) => !name.split(path.sep).some((part) => part.startsWith('.')))
    .sort();
  if (files.length === 0) {
    throw new LowrankError('ERR_LOWRANK_INVALID_DATA', 'the folder holds no data file', {
      where: location,
      hint: `Files that can be read: ${ENDINGS}.`,
    });
  }
  const sources = await Promise.all(files.map((name) => openFile(path.join(location, name), name)));
  const splits = files.map((name) => splitOf(path.basename(name)));
  // Names count only when every file has one: else "test_cases.jsonl" alone would never be trained on.
  if (splits.every((split) => split !== undefined) && splits.includes('train')) {
    sources.forEach((source, i) => (source.split = splits[i]));
  }
  return sources;
}

function splitOf(name: string): SplitName | undefined {
  return SPLIT_NAMES.find(([pattern]) => pattern.test(name))?.[1];
}

async function openFile(file: string, name: string): Promise<Source> {
  const ending = path.extname(file).toLowerCase();
  const reader = READERS[ending];
  if (!reader) {
    throw new LowrankError(
      'ERR_LOWRANK_INVALID_ARGUMENT',
      ending === '' ? 'the file has no ending' : `files ending in ${ending} can't be read`,
      { where: file, hint: `Files that can be read: ${ENDINGS}.` },
    );
  }
  const { size } = await stat(file);
  return {
    name,
    bytes: size,
    rows: (signal) => reader(file, signal),
    hash: async (hash, signal) => {
      for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20, signal })) {
        hash.update(chunk as Buffer);
      }
      return true;
    },
  };
}

export type RowIterable = Iterable<unknown> | AsyncIterable<unknown>;

/** Rows that the program itself makes. A function is called anew for each reading. */
export function openIterable(rows: RowIterable | (() => RowIterable), name: string): Source {
  let used = false;
  return {
    name,
    bytes: 0,
    hash: async (hash) => {
      if (!Array.isArray(rows)) return false;
      for (const row of rows) hash.update(JSON.stringify(row) ?? 'undefined').update('\n');
      return true;
    },
    rows: async function* () {
      // An iterator that is its own iterable can be walked once.
      const iterable = typeof rows === 'function' ? rows() : rows;
      const once = typeof rows !== 'function' && !Array.isArray(rows) && 'next' in iterable;
      if (once && used) {
        throw new LowrankError(
          'ERR_LOWRANK_INVALID_ARGUMENT',
          'the iterator has been read already',
          {
            where: name,
            hint: 'Give loadDataset a function that returns a new iterator each time.',
          },
        );
      }
      used = true;
      let line = 0;
      let batch: SourceRow[] = [];
      for await (const value of iterable) {
        batch.push({ line: ++line, value });
        if (batch.length === 64) {
          yield batch;
          batch = [];
        }
      }
      if (batch.length > 0) yield batch;
    },
  };
}

/** SHA-256 over the bytes of all sources; undefined when one of them is an iterator. */
export async function hashSources(
  sources: readonly Source[],
  signal?: AbortSignal,
): Promise<string | undefined> {
  const hash = createHash('sha256');
  for (const source of sources) {
    hash.update(`\0${source.bytes}\0`);
    if (!(await source.hash(hash, signal))) return undefined;
  }
  return hash.digest('hex');
}
