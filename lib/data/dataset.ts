// A data set as the user names it: where its rows are. Nothing is read until it is prepared.
import { LowrankError } from '../errors.js';
import { RowError } from './row_error.js';
import { parseRow, type Row } from './rows.js';
import { openIterable, openPath, type RowIterable, type Source } from './source.js';

export interface DatasetRow {
  /** Index into `Dataset.sources`. */
  source: number;
  line: number;
  row?: Row;
  /** Why the row can't be used, and what to do. */
  error?: string;
}

export class Dataset {
  /** Use loadDataset(). */
  constructor(readonly sources: readonly Source[]) {}

  get names(): string[] {
    return this.sources.map((source) => source.name);
  }

  /** All rows in order, in small batches; bad ones with an error instead of a row. */
  async *rows(signal?: AbortSignal): AsyncGenerator<DatasetRow[]> {
    for (const [source, { rows }] of this.sources.entries()) {
      for await (const batch of rows(signal)) {
        yield batch.map((item) => {
          if ('error' in item) return { source, line: item.line, error: item.error };
          try {
            return { source, line: item.line, row: parseRow(item.value) };
          } catch (error) {
            if (!(error instanceof RowError)) throw error;
            return { source, line: item.line, error: error.message };
          }
        });
      }
    }
  }
}

export interface LoadDatasetOptions {
  /** What messages call rows that don't come from a file; default "data". */
  name?: string;
}

/**
 * Names a data set: a file (.jsonl, .json, .csv, .tsv, .parquet), a folder of them, several of these, an
 * array of rows, any (async) iterable of rows, or a function that returns one. Only checks that files
 * exist; rows are read by prepareDataset(). Files of a folder that are named train*, valid* (or dev*,
 * eval*) and test* make up those splits.
 */
export async function loadDataset(
  source: string | readonly string[] | RowIterable | (() => RowIterable),
  options: LoadDatasetOptions = {},
): Promise<Dataset> {
  if (typeof source === 'string') return new Dataset(await openPath(source));
  if (
    Array.isArray(source) &&
    source.length > 0 &&
    source.every((item) => typeof item === 'string')
  ) {
    return new Dataset((await Promise.all((source as string[]).map(openPath))).flat());
  }
  const iterable =
    typeof source === 'function' ||
    (typeof source === 'object' &&
      source !== null &&
      (Symbol.iterator in source || Symbol.asyncIterator in source));
  if (!iterable) {
    throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', 'this is not a data set', {
      where: 'loadDataset',
      hint: 'Give a path, an array of rows, an (async) iterable, or a function that returns one.',
    });
  }
  return new Dataset([
    openIterable(source as RowIterable | (() => RowIterable), options.name ?? 'data'),
  ]);
}
