// The public trainer: a model, a method and data become a training run whose events are an async
// iterator.

import { join } from 'node:path';

import { z } from 'zod';

import { Adapter } from './adapter.js';
import { saveAdapterFolder, type TrainingSummary } from './adapter_folder.js';
import { prepareDataset, type Dataset, type PreparedData } from './data/index.js';
import { LowrankError } from './errors.js';
import { Model } from './model.js';
import type { NativeLoraOptions } from './native/addon.js';
import { call } from './native/call.js';
import { preparedSource } from './train/batches.js';
import { TrainingLoop, type TrainingTarget } from './train/loop.js';
import type { TrainEvent } from './train/events.js';
import { createManifest, hashInputs } from './train/manifest.js';
import { parseOptions } from './validate.js';
import {
  parseSplitRatio,
  parseTargetModules,
  trainingShape,
  type TrainingInput,
} from './train/options.js';

const loraMethodSchema = z.strictObject({
  /** `qlora` is `lora` over a quantized model; the model decides. */
  type: z.enum(['lora', 'qlora']),
  /** Rank. */
  r: z.number().int().positive().default(16),
  alpha: z.number().positive().default(32),
  /** Dropout on the adapter's input. */
  dropout: z.number().min(0).lt(1).default(0),
  /** "all-linear", names, or one regular expression on full names. */
  targetModules: z.union([z.string(), z.array(z.string())]).default('all-linear'),
  useRslora: z.boolean().default(false),
  rankPattern: z.record(z.string(), z.number().int().positive()).default({}),
  alphaPattern: z.record(z.string(), z.number().positive()).default({}),
  /** Modules trained in full beside the adapter. */
  modulesToSave: z.array(z.string()).default([]),
  /** Start from this PEFT adapter instead of a fresh one. */
  initAdapter: z.string().optional(),
});
const fullMethodSchema = z.strictObject({ type: z.literal('full') });
const methodSchema = z.discriminatedUnion('type', [loraMethodSchema, fullMethodSchema]);

export type TrainingMethod = z.input<typeof methodSchema>;

const trainerSchema = z.strictObject({
  ...trainingShape,
  epochs: z.number().positive().optional(),
});

export interface TrainerOptions extends TrainingInput {
  model: Model;
  method: TrainingMethod;
  train: Dataset;
  /** Default: the validation part of `train`. */
  validation?: Dataset;
  outputDir: string;
  /** The same as `numTrainEpochs`. */
  epochs?: number;
  /** A checkpoint folder, or "last" (starts afresh when there is none). */
  resumeFromCheckpoint?: string;
  /** Stops the run within one micro-batch and leaves a checkpoint. */
  signal?: AbortSignal;
}

/**
 * One training run. `run()` yields events and ends with an `end` event, also when the signal stopped it
 * (`reason: 'aborted'`). Errors are LowrankError.
 */
export class Trainer {
  private readonly method: z.output<typeof methodSchema>;
  private readonly options: z.output<typeof trainerSchema>;
  private target: TrainingTarget | null = null;
  private summary: TrainingSummary | null = null;
  private started = false;

  constructor(private readonly input: TrainerOptions) {
    const {
      model: _m,
      method,
      train: _t,
      validation: _v,
      outputDir: _o,
      resumeFromCheckpoint: _r,
      signal: _s,
      ...rest
    } = input;
    this.method = parseOptions(methodSchema, method, 'method');
    const options = parseOptions(trainerSchema, rest, 'Trainer');
    this.options = { ...options, numTrainEpochs: options.epochs ?? options.numTrainEpochs };
  }

  async *run(): AsyncGenerator<TrainEvent> {
    if (this.started)
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', 'a trainer runs once', {
        hint: 'make another Trainer, with resumeFromCheckpoint to go on',
      });
    this.started = true;
    const prepared: PreparedData[] = [];
    try {
      const { epochs: _, ...options } = this.options;
      const train = await this.prepare(this.input.train, this.input.validation === undefined);
      prepared.push(train);
      let validation = train;
      if (this.input.validation) {
        validation = await this.prepare(this.input.validation, false);
        prepared.push(validation);
      }
      const source = { seed: options.seed, packing: options.packing, maxLength: options.maxLength };
      const validationSplit = this.input.validation ? 'train' : 'validation';
      const loop = new TrainingLoop({
        target: await this.createTarget(),
        train: await preparedSource(train, 'train', {
          ...source,
          shuffle: options.shuffle,
          perDeviceBatchSize: options.perDeviceTrainBatchSize,
        }),
        validation:
          validation.count(validationSplit) === 0
            ? null
            : await preparedSource(validation, validationSplit, {
                ...source,
                shuffle: false,
                perDeviceBatchSize: options.perDeviceEvalBatchSize,
              }),
        outputDir: this.input.outputDir,
        baseModelName: this.input.model.folder,
        options,
        resumeFromCheckpoint: this.input.resumeFromCheckpoint,
        reload: (checkpoint) => this.reload(checkpoint),
        manifest: await this.manifest(train),
        signal: this.input.signal,
      });
      try {
        yield* loop.events();
      } finally {
        this.target = loop.target;
        this.summary = loop.summary();
      }
    } finally {
      for (const data of prepared) await data.close();
    }
  }

  /** The adapter being trained; null in full fine-tuning and before the run has begun. */
  get adapter(): Adapter | null {
    const native = this.target?.adapter;
    return native ? new Adapter(native, this.input.model.folder) : null;
  }

  /** Writes the adapter as a PEFT folder. */
  async saveAdapter(folder: string): Promise<void> {
    const native = this.target?.adapter;
    if (!native)
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', 'there is no adapter to save', {
        hint: 'run() it first; after full fine-tuning the model is in the run folder',
      });
    const training = this.summary ?? undefined;
    await call(() => saveAdapterFolder(native, folder, this.input.model.folder, training));
  }

  private async prepare(dataset: Dataset, split: boolean): Promise<PreparedData> {
    const { options } = this;
    const { folder } = this.input.model;
    return prepareDataset(dataset, {
      ...(folder === '' ? {} : { model: folder }),
      maxLength: options.maxLength,
      split: split ? parseSplitRatio(options.splitRatio) : [1, 0, 0],
      maxBadRows: options.maxBadRows,
      truncation: options.truncation,
      chatTemplate: options.chatTemplate,
      allowNoStopToken: options.allowNoStopToken,
      cacheDir: options.cacheDir ?? join(this.input.outputDir, 'cache'),
      signal: this.input.signal,
    });
  }

  private async createTarget(): Promise<TrainingTarget> {
    const native = this.input.model.native;
    if (this.method.type === 'full') return { model: native, adapter: null };
    const { initAdapter } = this.method;
    const adapter = await call(() =>
      initAdapter === undefined
        ? native.createAdapter(this.loraOptions(), this.options.seed)
        : native.loadAdapter(initAdapter),
    );
    return { model: native, adapter };
  }

  private async reload(checkpoint: string): Promise<TrainingTarget> {
    const { model } = this.input;
    if (this.method.type !== 'full')
      return { model: model.native, adapter: await model.native.loadAdapter(checkpoint) };
    const loaded = await Model.load(checkpoint, model.options);
    return { model: loaded.native, adapter: null };
  }

  private loraOptions(): NativeLoraOptions {
    if (this.method.type === 'full')
      throw new LowrankError('ERR_LOWRANK_INTERNAL', 'no adapter here');
    const {
      r,
      alpha,
      dropout,
      targetModules,
      useRslora,
      rankPattern,
      alphaPattern,
      modulesToSave,
    } = this.method;
    return {
      r,
      loraAlpha: alpha,
      loraDropout: dropout,
      useRslora,
      ...parseTargetModules(targetModules),
      rankPattern,
      alphaPattern,
      modulesToSave,
    };
  }

  private async manifest(train: PreparedData): Promise<Record<string, unknown>> {
    const { model } = this.input;
    return createManifest({
      options: { method: this.method, ...this.options },
      model: model.info,
      modelFiles: model.folder ? await hashInputs(model.folder) : {},
      dataFiles: { content: `sha256:${train.report.contentHash}` },
      dataReport: train.report,
    });
  }
}
