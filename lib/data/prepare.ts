// From rows to what a trainer can run on: the cache file is found or built, divided into splits, checked
// and described.
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { LowrankError } from '../errors.js';
import { CacheBuilder, cacheKey, type BuildResult } from './build.js';
import { CacheReader, CacheWriter } from './cache.js';
import type { Dataset } from './dataset.js';
import { checkPrepareOptions, type CheckedPrepareOptions, type PrepareOptions } from './options.js';
import { identity } from './order.js';
import { inTurns, PIECE, type Pieces } from '../pause.js';
import { CachedData, splitExamples, type Splits } from './prepared.js';
import { FORMAT_DESCRIPTIONS } from './rows.js';
import { describeExample } from './show.js';
import { hashSources } from './source.js';
import { loadModelTools, type ModelTools } from './text_tools.js';
import {
  SPLIT_NAMES,
  type DataReport,
  type LengthStatistics,
  type PreparedData,
  type RowFormat,
  type SplitName,
  type SplitReport,
} from './types.js';

const BAD_ROWS_SHOWN = 50;

/**
 * Tokenizes a data set into a cache file (or finds it there), divides it and checks that there is
 * something to learn. Throws ERR_LOWRANK_INVALID_DATA naming all bad rows when there are more than
 * `maxBadRows`, and when no token, or no stop token, is trained.
 */
export async function prepareDataset(
  dataset: Dataset,
  options: PrepareOptions,
): Promise<PreparedData> {
  const checked = checkPrepareOptions(options);
  const tools = await loadModelTools(checked);
  const { cache, hit } = await openCache(dataset, tools, checked);
  try {
    await refuseBadRows(cache, checked);
    const splits = await inTurns(splitExamples(cache, checked.split, checked.splitSeed));
    const report = await inTurns(describeData(dataset, cache, splits, tools, checked, hit));
    const data = new CachedData(cache, splits, report, dataset.names, checked.maxLength);
    await refuseUntrainable(data, cache, splits, tools, checked);
    return data;
  } catch (error) {
    await cache.close();
    throw error;
  }
}

async function openCache(
  dataset: Dataset,
  tools: ModelTools,
  options: CheckedPrepareOptions,
): Promise<{ cache: CacheReader; hit: boolean }> {
  const folderOf = (hash: string): string =>
    path.join(options.cacheDir, `data-${cacheKey(dataset, hash, tools, options)}`);
  options.onProgress?.({ phase: 'hash', rows: 0, tokens: 0 });
  const hash = await aborting(options, () => hashSources(dataset.sources, options.signal));
  if (hash !== undefined) {
    const found = await CacheReader.open(folderOf(hash));
    if (found) return { cache: found, hit: true };
  }
  const writer = await CacheWriter.create(options.cacheDir);
  let result: BuildResult;
  let folder: string;
  try {
    result = await aborting(options, () =>
      new CacheBuilder(dataset, tools, options, writer).run(hash),
    );
    folder = folderOf(result.contentHash);
    await writer.finish(folder, result);
  } catch (error) {
    await writer.discard();
    throw error;
  }
  const cache = await CacheReader.open(folder);
  if (cache) return { cache, hit: false };
  throw new LowrankError(
    'ERR_LOWRANK_IO',
    'the tokenized data vanished right after it was written',
    {
      where: folder,
      hint: 'Another process may be cleaning the folder; use a cacheDir of your own.',
    },
  );
}

async function aborting<T>(options: CheckedPrepareOptions, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!options.signal?.aborted || error instanceof LowrankError) throw error;
    throw new LowrankError('ERR_LOWRANK_ABORTED', 'preparing the data was stopped', {
      cause: error,
    });
  }
}

async function refuseBadRows(cache: CacheReader, options: CheckedPrepareOptions): Promise<void> {
  const { badRows, badRowCount, rows } = cache.meta;
  if (badRowCount <= options.maxBadRows) return;
  const lines = badRows.map(({ file, line, message }) => `${file}:${line}: ${message}`);
  const shown = lines.slice(0, BAD_ROWS_SHOWN);
  let more = '';
  if (badRowCount > shown.length) {
    const file = path.join(options.cacheDir, `bad-rows-${path.basename(cache.folder)}.txt`);
    await mkdir(options.cacheDir, { recursive: true });
    await writeFile(file, `${lines.join('\n')}\n`);
    more = `\n... and ${badRowCount - shown.length} more, listed in ${file}`;
  }
  throw new LowrankError(
    'ERR_LOWRANK_INVALID_DATA',
    `${badRowCount} of ${rows} rows can't be used:\n${shown.join('\n')}${more}`,
    { hint: `Correct them, or leave them out with --max-bad-rows ${badRowCount}.` },
  );
}

async function refuseUntrainable(
  data: CachedData,
  cache: CacheReader,
  splits: Splits,
  tools: ModelTools,
  options: CheckedPrepareOptions,
): Promise<void> {
  const { report } = data;
  const fail = (message: string, rendered: string, hint: string): never => {
    throw new LowrankError('ERR_LOWRANK_INVALID_DATA', `${message}${rendered}`, {
      where: report.sources.join(', '),
      hint,
    });
  };
  const show = async (
    example: Parameters<typeof describeExample>[0],
    at: string,
  ): Promise<string> =>
    `\n${at} reads, with what is trained in [[double brackets]]:\n${await describeExample(example, tools.tokenizer)}`;
  if (report.rows === 0) fail('the data set has no rows', '', 'Check the path.');
  if (cache.count === 0) {
    const { sample } = cache.meta;
    const rendered = sample ? await show(sample, `${sample.file}:${sample.line}`) : '';
    const why = report.tooLong > 0 ? `; ${report.tooLong} rows are longer than maxLength` : '';
    const hint =
      report.tooLong + report.truncated > 0
        ? 'Raise maxLength (--max-length), or shorten the prompts.'
        : 'Check that the answers carry a weight above 0 and that labels are not all -100.';
    fail(`no token of the data would be trained${why}`, rendered, hint);
  }
  if (!options.requireTrainable) return;
  if (options.split[0] > 0 && data.count('train') === 0) {
    const sizes = SPLIT_NAMES.map((name) => `${name} ${data.count(name)}`).join(', ');
    fail(
      `no example is left to train on (${sizes})`,
      '',
      report.splitBy === 'files'
        ? 'Put rows into the file named train.'
        : 'There are too few rows to divide: use all for training (--split-ratio 100/0/0), or add rows.',
    );
  }
  if (options.allowNoStopToken || tools.stopTokenIds.length === 0) return;
  const used = splits.train.length > 0 ? splits.train : identity(cache.count);
  if (used.some((example) => cache.hasStopToken(example))) return;
  const first = await data.example(used[0]!);
  const names = tools.stopTokenIds.map((id) => tools.tokenizer?.idToToken(id) ?? String(id));
  fail(
    `no stop token (${names.join(', ')}) would be trained: the model would not learn where to stop`,
    await show(first, `${first.file}:${first.line}`),
    report.truncated > 0
      ? 'All answers are cut off; raise maxLength (--max-length).'
      : 'The template should write a stop token behind each answer; --allow-no-stop-token starts all the same.',
  );
}

function* describeData(
  dataset: Dataset,
  cache: CacheReader,
  splits: Splits,
  tools: ModelTools,
  options: CheckedPrepareOptions,
  hit: boolean,
): Pieces<DataReport> {
  const { meta } = cache;
  const formats = Object.entries(meta.formats) as [RowFormat, number][];
  let withStopToken = 0;
  for (let i = 0; i < cache.count; i++) {
    if (i % PIECE === 0) yield;
    if (cache.hasStopToken(i)) withStopToken++;
  }
  const splitReports: Partial<Record<SplitName, SplitReport>> = {};
  for (const name of SPLIT_NAMES) splitReports[name] = yield* describeSplit(cache, splits[name]);
  const report: DataReport = {
    sources: dataset.names,
    contentHash: meta.contentHash,
    fingerprint: yield* fingerprint(meta.tokensHash, splits),
    formats: formats.map(([format, rows]) => ({
      format,
      rows,
      description: FORMAT_DESCRIPTIONS[format],
    })),
    rows: meta.rows,
    badRows: meta.badRows,
    badRowCount: meta.badRowCount,
    splits: splitReports as Record<SplitName, SplitReport>,
    splitBy: dataset.sources.some(({ split }) => split !== undefined) ? 'files' : 'hash',
    lengths: yield* describeLengths(cache),
    truncated: meta.truncated,
    tooLong: meta.tooLong,
    withoutLabels: meta.withoutLabels,
    duplicates: yield* countDuplicates(cache),
    typedSpecialTokens: meta.typedSpecialTokens,
    ...(tools.stopTokenIds.length > 0 && { withStopToken }),
    ...(options.maxLength !== undefined && { maxLength: options.maxLength }),
    warnings: [],
    cache: { folder: cache.folder, hit },
  };
  report.warnings = warningsFor(report, options);
  return report;
}

function* fingerprint(tokensHash: string, splits: Splits): Pieces<string> {
  const hash = createHash('sha256').update(tokensHash);
  for (const name of SPLIT_NAMES) {
    const examples = splits[name];
    hash.update(`\0${examples.length}\0`);
    for (let at = 0; at < examples.length; at += 8 * PIECE) {
      yield;
      hash.update(examples.subarray(at, at + 8 * PIECE));
    }
  }
  return hash.digest('hex');
}

function warningsFor(report: DataReport, options: CheckedPrepareOptions): string[] {
  const warnings: string[] = [];
  const { truncated, tooLong, withoutLabels, typedSpecialTokens, duplicates } = report;
  if (report.formats.length > 1) {
    const kinds = report.formats.map(({ format, rows }) => `${rows} ${format}`).join(', ');
    warnings.push(`rows of different kinds: ${kinds}`);
  }
  if (truncated > 0) warnings.push(`${truncated} rows are cut at ${options.maxLength} tokens`);
  if (tooLong > 0)
    warnings.push(`${tooLong} rows are left out, longer than ${options.maxLength} tokens`);
  if (withoutLabels > 0)
    warnings.push(`${withoutLabels} rows are left out: nothing in them is trained`);
  if (typedSpecialTokens > 0) {
    warnings.push(`${typedSpecialTokens} rows have special tokens typed inside their text`);
  }
  if (duplicates > 0) warnings.push(`${duplicates} rows are duplicates of others`);
  SPLIT_NAMES.forEach((name, i) => {
    if (report.splitBy === 'hash' && options.split[i]! > 0 && report.splits[name].examples === 0) {
      warnings.push(`the ${name} part is empty: too few rows for its share`);
    }
  });
  return warnings;
}

function* describeSplit(cache: CacheReader, examples: Uint32Array): Pieces<SplitReport> {
  let tokens = 0;
  let labelTokens = 0;
  for (let i = 0; i < examples.length; i++) {
    if (i % PIECE === 0) yield;
    const example = examples[i]!;
    tokens += cache.length(example);
    labelTokens += cache.labelTokens(example);
  }
  return { examples: examples.length, tokens, labelTokens };
}

function* describeLengths(cache: CacheReader): Pieces<LengthStatistics> {
  const { count } = cache;
  const examples = new Map<number, number>(); // by length
  let total = 0;
  for (let i = 0; i < count; i++) {
    if (i % PIECE === 0) yield;
    const length = cache.length(i);
    examples.set(length, (examples.get(length) ?? 0) + 1);
    total += length;
  }
  const lengths = Uint32Array.from(examples.keys()).sort();
  const at = (share: number): number => {
    let left = Math.ceil(share * count);
    return lengths.find((length) => (left -= examples.get(length)!) <= 0) ?? 0;
  };
  return {
    min: lengths[0] ?? 0,
    mean: count === 0 ? 0 : total / count,
    p50: at(0.5),
    p90: at(0.9),
    p99: at(0.99),
    max: lengths.at(-1) ?? 0,
  };
}

// Pieces of one split row share its hash and its line, and are no duplicates of each other.
function* countDuplicates(cache: CacheReader): Pieces<number> {
  // A hash table with open addressing (a Set of a million rows stops everything while it grows): the
  // example + 1 that came first.
  let slots = 16;
  while (slots < 2 * cache.count) slots *= 2;
  const first = new Uint32Array(slots);
  let duplicates = 0;
  for (let i = 0; i < cache.count; i++) {
    if (i % (PIECE / 4) === 0) yield;
    const { high, low } = cache.hash(i);
    const place = cache.place(i);
    const previous = i > 0 ? cache.place(i - 1) : undefined;
    if (previous && previous.file === place.file && previous.line === place.line) continue;
    for (let slot = low % slots; ; slot = (slot + 1) % slots) {
      const other = first[slot]!;
      if (other === 0) {
        first[slot] = i + 1;
        break;
      }
      const known = cache.hash(other - 1);
      if (known.high === high && known.low === low) {
        duplicates++;
        break;
      }
    }
  }
  return duplicates;
}

/** How many examples of `evaluation` have a row with the same content in `train`: a leak between them. */
export async function countOverlap(train: Dataset, evaluation: Dataset): Promise<number> {
  const { contentHash } = await import('./tokenize.js');
  const known = new Set<string>();
  const key = (row: Parameters<typeof contentHash>[0]): string => {
    const { high, low } = contentHash(row);
    return `${high}:${low}`;
  };
  for await (const rows of evaluation.rows())
    for (const { row } of rows) if (row) known.add(key(row));
  const found = new Set<string>();
  for await (const rows of train.rows()) {
    for (const { row } of rows) if (row && known.has(key(row))) found.add(key(row));
  }
  return found.size;
}
