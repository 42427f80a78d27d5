// `lowrank inspect data`: text, tokens and mask of the first examples, and what the data set holds.
import path from 'node:path';
import { loadDataset, prepareDataset } from '../data/index.js';
import { showExample, showReport } from '../data/inspect.js';
import type { PrepareOptions } from '../data/options.js';
import type { Example } from '../data/types.js';
import { LowrankError } from '../errors.js';
import { Tokenizer } from '../tokenizer.js';

export interface InspectDataOptions {
  data: string | string[];
  /** Model folder; not needed for rows that are tokenized. */
  model?: string;
  /** A chat template instead of the model's. */
  chatTemplate?: string;
  /** Examples shown; default 3. */
  rows?: number;
  maxLength?: number;
  truncation?: PrepareOptions['truncation'];
  split?: PrepareOptions['split'];
  cacheDir?: string;
  /** One JSON object instead of text. */
  json?: boolean;
}

export interface InspectIo {
  write(text: string): void;
  color: boolean;
  signal?: AbortSignal;
}

/** Returns the exit status: 1 when the data has bad rows or no stop token is trained. */
export async function inspectData(options: InspectDataOptions, io: InspectIo): Promise<number> {
  const { model, rows = 3 } = options;
  const dataset = await loadDataset(options.data);
  const tokenizer = model === undefined ? undefined : await loadTokenizer(model);
  const data = await prepareDataset(dataset, {
    model,
    tokenizer,
    chatTemplate: options.chatTemplate,
    maxLength: options.maxLength,
    truncation: options.truncation,
    split: options.split,
    cacheDir: options.cacheDir,
    signal: io.signal,
    // Shown, not refused: that is what one looks for here.
    maxBadRows: Number.MAX_SAFE_INTEGER,
    requireTrainable: false,
  });
  try {
    const { report } = data;
    const total = data.count('train') + data.count('validation') + data.count('test');
    const examples: Example[] = [];
    for (let i = 0; i < Math.min(rows, total); i++) examples.push(await data.example(i));
    if (options.json) {
      const shown = examples.map(({ inputIds, labels, weights, file, line }) => ({
        file,
        line,
        input_ids: Array.from(inputIds),
        labels: Array.from(labels),
        ...(weights && { weights: Array.from(weights) }),
      }));
      io.write(`${JSON.stringify({ ...report, examples: shown })}\n`);
    } else {
      for (const example of examples) {
        io.write(`${await showExample(example, tokenizer, { color: io.color })}\n`);
      }
      io.write(`${showReport(report, { color: io.color })}\n`);
    }
    return report.badRowCount > 0 || report.withStopToken === 0 ? 1 : 0;
  } finally {
    await data.close();
  }
}

async function loadTokenizer(model: string): Promise<Tokenizer | undefined> {
  try {
    return await Tokenizer.load(model);
  } catch (error) {
    // Tokenized rows do without; others fail when they are read, with the same message.
    const missing =
      error instanceof LowrankError && error.where !== path.join(model, 'tokenizer.json');
    if (missing) return undefined;
    throw error;
  }
}
