// Options of the data loader, checked before anything is read.
import { z } from 'zod';
import type { ChatTemplate } from '../chat_template.js';
import type { Tokenizer } from '../tokenizer.js';
import { parseOptions } from '../validate.js';

const ratio = z.number().min(0).max(1);

const prepareSchema = z.strictObject({
  /** Folder with the tokenizer and its chat template; not needed for rows that are tokenized. */
  model: z.string().optional(),
  /** Instead of the folder's. */
  tokenizer: z.custom<Tokenizer>((value) => typeof value === 'object').optional(),
  template: z.custom<ChatTemplate>((value) => typeof value === 'object').optional(),
  /** A file with the chat template to use instead of the folder's. */
  chatTemplate: z.string().optional(),
  /** Tokens that end an answer; default: what tokenizer and model folder name. */
  stopTokenIds: z.array(z.int().min(0)).optional(),
  /** Ids from here on are refused; default: `vocab_size` of the model's config.json. */
  vocabularySize: z.int().positive().optional(),
  /** Tokens per example; default no limit. */
  maxLength: z.int().min(2).optional(),
  /** A longer example: cut its end off, leave it out, or (plain text only) go on in another. */
  truncation: z.enum(['truncate', 'drop', 'split']).default('truncate'),
  /** Shares of train, validation and test; they are scaled to a sum of 1. */
  split: z
    .tuple([ratio, ratio, ratio])
    .refine((shares) => shares[0] + shares[1] + shares[2] > 0, 'one of the shares must be above 0')
    .default([0.8, 0.1, 0.1]),
  /** Another seed, another split; rows keep their side while rows are added. */
  splitSeed: z.int().min(0).default(0),
  cacheDir: z.string().default('.lowrank-cache'),
  maxBadRows: z.int().min(0).default(0),
  /** Variables for the chat template, such as `enable_thinking`. */
  templateVariables: z.record(z.string(), z.unknown()).optional(),
  /** Start although no stop token is trained: the model won't learn where to stop. */
  allowNoStopToken: z.boolean().default(false),
  /** False: only describe the data; neither a stop token nor a row to train on is asked for. */
  requireTrainable: z.boolean().default(true),
  signal: z.custom<AbortSignal>((value) => value instanceof AbortSignal).optional(),
  onProgress: z
    .custom<(progress: PrepareProgress) => void>((value) => typeof value === 'function')
    .optional(),
});

export interface PrepareProgress {
  phase: 'hash' | 'tokenize';
  rows: number;
  tokens: number;
}

export type PrepareOptions = z.input<typeof prepareSchema>;
export type CheckedPrepareOptions = z.output<typeof prepareSchema>;

const batchSchema = z.strictObject({
  epoch: z.int().min(0).default(0),
  seed: z.int().min(0).default(42),
  shuffle: z.boolean().default(false),
  perDeviceBatchSize: z.int().positive().default(1),
  maxTokens: z.int().positive().optional(),
  packing: z.boolean().default(false),
  packLength: z.int().positive().optional(),
  groupByLength: z.boolean().default(false),
});

export type CheckedBatchOptions = z.output<typeof batchSchema>;

export function checkPrepareOptions(options: PrepareOptions): CheckedPrepareOptions {
  return parseOptions(prepareSchema, options, 'prepareDataset');
}

export function checkBatchOptions(options: z.input<typeof batchSchema>): CheckedBatchOptions {
  return parseOptions(batchSchema, options, 'batches');
}
