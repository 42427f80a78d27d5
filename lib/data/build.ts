// One pass over the rows: read, check, render, encode, write. Memory holds a few batches at a time.
import { createHash } from 'node:crypto';
import { LowrankError } from '../errors.js';
import {
  CACHE_VERSION,
  CacheWriter,
  countLabels,
  type CacheMeta,
  type WrittenMeta,
} from './cache.js';
import type { Dataset } from './dataset.js';
import type { CheckedPrepareOptions } from './options.js';
import { Pause } from '../pause.js';
import { RowError } from './row_error.js';
import type { Row } from './rows.js';
import type { ModelTools } from './text_tools.js';
import {
  contentHash,
  encodeTexts,
  IGNORE,
  prepareText,
  type PreparedText,
  type TokenizedRow,
} from './tokenize.js';
import type { RowFormat } from './types.js';

// Enough to see what is wrong; the rest is counted.
const BAD_ROWS_KEPT = 100_000;
// A batch for the tokenizer; turning its result into typed arrays takes about a millisecond.
const BATCH_CHARACTERS = 8_192;
const BATCH_ROWS = 128;

interface Pending {
  source: number;
  line: number;
  row: Row;
  hash: { high: number; low: number };
  text?: PreparedText;
}

/** What decides the content of the cache file besides the data. */
export function cacheKey(
  dataset: Dataset,
  contentHash: string,
  tools: ModelTools,
  options: CheckedPrepareOptions,
): string {
  const parts = [
    CACHE_VERSION,
    contentHash,
    dataset.sources.map(({ name, split }) => [name, split ?? null]),
    tools.tokenizer?.fingerprint ?? null,
    tools.template?.fingerprint ?? null,
    tools.stopTokenIds,
    tools.vocabularySize ?? null,
    options.templateVariables ?? null,
    options.maxLength ?? null,
    options.truncation,
  ];
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32);
}

export type BuildResult = Omit<CacheMeta, WrittenMeta>;

export class CacheBuilder {
  private readonly counts = {
    rows: 0,
    badRowCount: 0,
    truncated: 0,
    tooLong: 0,
    withoutLabels: 0,
    typedSpecialTokens: 0,
  };
  private readonly formats: Partial<Record<RowFormat, number>> = {};
  private readonly badRows: BuildResult['badRows'] = [];
  private readonly rowHashes = createHash('sha256');
  private sample: BuildResult['sample'];
  private tokens = 0;
  private readonly specialTokens: RegExp | undefined;
  private readonly stopTokens: ReadonlySet<number>;

  constructor(
    private readonly dataset: Dataset,
    private readonly tools: ModelTools,
    private readonly options: CheckedPrepareOptions,
    private readonly writer: CacheWriter,
  ) {
    this.stopTokens = new Set(tools.stopTokenIds);
    const special = tools.tokenizer?.addedTokens.filter((token) => token.special) ?? [];
    if (special.length > 0) {
      const escaped = special.map(({ content }) => content.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
      this.specialTokens = new RegExp(escaped.join('|'));
    }
  }

  /** Reads all rows. Without `dataHash` (iterators) the hash is that of the rows' content. */
  async run(dataHash: string | undefined): Promise<BuildResult> {
    const { signal } = this.options;
    const pause = new Pause(signal);
    let pending: Pending[] = [];
    let characters = 0;
    let writing: Promise<void> = Promise.resolve();
    // While one batch is encoded and written, the next one is read and rendered.
    const dispatch = async (): Promise<void> => {
      const batch = pending;
      pending = [];
      characters = 0;
      await writing;
      writing = this.finish(batch);
      writing.catch(() => {}); // it is awaited with the next batch
    };
    for await (const rows of this.dataset.rows(signal)) {
      for (const { source, line, row, error } of rows) {
        this.counts.rows++;
        if (!row) {
          this.reject(source, line, error ?? '');
          continue;
        }
        this.formats[row.format] = (this.formats[row.format] ?? 0) + 1;
        const entry = this.prepare(source, line, row);
        if (!entry) continue;
        pending.push(entry);
        characters += entry.text?.text.length ?? 0;
        if (pending.length >= BATCH_ROWS || characters >= BATCH_CHARACTERS) await dispatch();
        if (pause.due) await pause.turn();
      }
    }
    await dispatch();
    await writing;
    return {
      ...this.counts,
      contentHash: dataHash ?? this.rowHashes.digest('hex'),
      formats: this.formats,
      badRows: this.badRows,
      sample: this.sample,
    };
  }

  private prepare(source: number, line: number, row: Row): Pending | undefined {
    const hash = contentHash(row);
    this.rowHashes.update(Uint32Array.of(hash.high, hash.low));
    if (row.kind === 'tokens') return { source, line, row, hash };
    if (!this.tools.tokenizer) throw this.noTokenizer(source, line, row);
    try {
      const text = prepareText(row, this.tools);
      if (this.specialTokens && row.kind !== 'text' && typed(row, this.specialTokens)) {
        this.counts.typedSpecialTokens++;
      }
      return { source, line, row, hash, text };
    } catch (error) {
      if (!(error instanceof RowError)) throw error;
      this.reject(source, line, error.message);
      return undefined;
    }
  }

  private async finish(batch: readonly Pending[]): Promise<void> {
    const texts = batch.flatMap(({ text }) => (text ? [text] : []));
    const encoded = texts.length > 0 ? await encodeTexts(texts, this.tools.tokenizer!) : [];
    let next = 0;
    for (const entry of batch)
      await this.write(entry, entry.text ? encoded[next++]! : given(entry.row));
    this.options.onProgress?.({ phase: 'tokenize', rows: this.counts.rows, tokens: this.tokens });
  }

  private async write(entry: Pending, row: TokenizedRow): Promise<void> {
    const problem = this.outOfVocabulary(row);
    if (problem !== undefined) {
      this.reject(entry.source, entry.line, problem);
      return;
    }
    let written = 0;
    for (const piece of this.fit(row)) {
      piece.labels[0] = IGNORE; // nothing comes before it that could predict it
      const labelTokens = countLabels(piece.labels);
      if (labelTokens === 0) {
        this.keepSample(entry, piece);
        continue;
      }
      const { split } = this.dataset.sources[entry.source]!;
      const hasStopToken = piece.labels.some((label) => this.stopTokens.has(label));
      const { hash, line, source } = entry;
      await this.writer.add({ ...piece, hash, line, file: source, split, hasStopToken });
      this.tokens += piece.inputIds.length;
      written++;
    }
    if (written === 0 && !this.dropped(row)) this.counts.withoutLabels++;
  }

  private dropped(row: TokenizedRow): boolean {
    const { maxLength, truncation } = this.options;
    return truncation === 'drop' && maxLength !== undefined && row.inputIds.length > maxLength;
  }

  // A row as one or more examples of at most maxLength tokens.
  private *fit(row: TokenizedRow): Generator<TokenizedRow> {
    const { maxLength, truncation } = this.options;
    const { length } = row.inputIds;
    if (maxLength === undefined || length <= maxLength) {
      yield row;
    } else if (truncation === 'drop') {
      this.counts.tooLong++;
    } else if (truncation === 'split' && row.splittable) {
      // Pieces share a token, so that each token but the very first is predicted once.
      for (let at = 0; at < length - 1; at += maxLength - 1) yield slice(row, at, at + maxLength);
    } else {
      this.counts.truncated++;
      yield slice(row, 0, maxLength);
    }
  }

  private outOfVocabulary({ inputIds, labels }: TokenizedRow): string | undefined {
    const limit = this.tools.vocabularySize;
    if (limit === undefined) return undefined;
    const wrong = inputIds.find((id) => id >= limit) ?? labels.find((id) => id >= limit);
    if (wrong === undefined) return undefined;
    return `token ${wrong} is outside the model's vocabulary of ${limit}. Tokenize with this model's tokenizer.`;
  }

  private reject(source: number, line: number, message: string): void {
    this.counts.badRowCount++;
    if (this.badRows.length < BAD_ROWS_KEPT) {
      this.badRows.push({ file: this.dataset.sources[source]!.name, line, message });
    }
  }

  private keepSample(entry: Pending, { inputIds, labels }: TokenizedRow): void {
    this.sample ??= {
      file: this.dataset.sources[entry.source]!.name,
      line: entry.line,
      inputIds: Array.from(inputIds.subarray(0, 512)),
      labels: Array.from(labels.subarray(0, 512)),
    };
  }

  private noTokenizer(source: number, line: number, row: Row): LowrankError {
    const where = `${this.dataset.sources[source]!.name}:${line}`;
    if (this.tools.tokenizerError) return this.tools.tokenizerError;
    return new LowrankError(
      'ERR_LOWRANK_INVALID_ARGUMENT',
      `a ${row.format} row needs a tokenizer`,
      {
        where,
        hint: 'Name a model folder with tokenizer.json, or give rows with "input_ids" and "labels".',
      },
    );
  }
}

function given(row: Row): TokenizedRow {
  if (row.kind !== 'tokens') throw new TypeError('not a tokenized row');
  return {
    inputIds: Int32Array.from(row.inputIds),
    labels: Int32Array.from(row.labels),
    splittable: false,
  };
}

function slice(row: TokenizedRow, start: number, end: number): TokenizedRow {
  return {
    splittable: row.splittable,
    inputIds: row.inputIds.slice(start, end),
    labels: row.labels.slice(start, end),
    ...(row.weights && { weights: row.weights.slice(start, end) }),
  };
}

function typed(row: Exclude<Row, { kind: 'tokens' }>, special: RegExp): boolean {
  if (row.kind === 'text') return special.test(row.text);
  if (row.kind === 'completion') return special.test(row.prompt) || special.test(row.completion);
  return row.messages.some((message) => special.test(message.content));
}
