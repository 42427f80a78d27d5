// The training loop: one native call per optimizer step; everything around it is bookkeeping.

import { join } from 'node:path';

import { saveAdapterFolder, type TrainingSummary } from '../adapter_folder.js';
import { LowrankError, fromNative } from '../errors.js';
import { linkAbort, type AbortLink } from '../native/abort.js';
import type {
  NativeAdapter,
  NativeMicroBatch,
  NativeModel,
  NativeSession,
} from '../native/addon.js';
import { loadAddon } from '../native/load_addon.js';
import { StepReader, countSteps, type BatchSource, type Position } from './batches.js';
import {
  checkFingerprint,
  copyTokenizerFiles,
  findCheckpoint,
  readCheckpointState,
  writeCheckpoint,
  type CheckpointState,
} from './checkpoint.js';
import { EarlyStopping } from './early_stopping.js';
import { evaluateBatches } from './evaluate.js';
import type { EndEvent, EvalEvent, StepEvent, TrainEvent } from './events.js';
import { nativeSessionOptions } from './native_options.js';
import { trainingFingerprint, type TrainingOptions } from './options.js';
import { RunFolder } from './run_folder.js';
import { createSchedule } from './schedule.js';

/** What is trained: an adapter over a base model, or the model itself when `adapter` is null. */
export interface TrainingTarget {
  model: NativeModel;
  adapter: NativeAdapter | null;
}

export interface LoopInput {
  target: TrainingTarget;
  train: BatchSource;
  validation: BatchSource | null;
  outputDir: string;
  /** Folder of the base model: named in adapter_config.json, source of tokenizer files. */
  baseModelName: string;
  options: TrainingOptions;
  /** A checkpoint folder, or "last" (which starts afresh when there is none yet). */
  resumeFromCheckpoint?: string;
  /** Loads what a checkpoint holds, to continue from it or to end with it. */
  reload: (checkpoint: string) => Promise<TrainingTarget>;
  manifest: Record<string, unknown>;
  signal?: AbortSignal;
}

interface Progress {
  step: number;
  tokens: number;
  labelTokens: number;
}

export class TrainingLoop {
  target: TrainingTarget;
  private session!: NativeSession;
  private run!: RunFolder;
  private stopping: EarlyStopping;
  private progress: Progress = { step: 0, tokens: 0, labelTokens: 0 };
  /** Where the best checkpoint stood, once it is the result. */
  private result: Progress | null = null;
  private readonly abort: AbortLink;
  private reader: StepReader;
  private stepsPerEpoch = 0;
  private totalSteps = 0;

  constructor(private readonly input: LoopInput) {
    const { options } = input;
    this.target = input.target;
    this.stopping = new EarlyStopping(
      options.earlyStoppingPatience,
      options.earlyStoppingThreshold,
    );
    this.abort = linkAbort(input.signal);
    this.reader = new StepReader(input.train, options.gradientAccumulationSteps);
  }

  async *events(): AsyncGenerator<TrainEvent> {
    const started = performance.now();
    try {
      const resumedFrom = await this.open();
      yield {
        type: 'start',
        totalSteps: this.totalSteps,
        stepsPerEpoch: this.stepsPerEpoch,
        firstStep: this.progress.step + 1,
        trainableParameters:
          this.target.adapter?.info().parameters ?? this.target.model.info().parameters,
        trainExamples: this.input.train.examples,
        validationExamples: this.input.validation?.examples ?? 0,
        plan: this.session.plan(),
        ...(resumedFrom === null ? {} : { resumedFrom }),
      };
      const reason = yield* this.steps();
      if (reason !== 'aborted') await this.restoreBest();
      const { bestStep, bestLoss } = this.stopping.state;
      yield {
        type: 'end',
        reason,
        step: this.progress.step,
        bestStep,
        bestLoss,
        outputPath: reason === 'aborted' ? null : await this.saveResult(),
        seconds: (performance.now() - started) / 1000,
      };
    } catch (error) {
      throw fromNative(error);
    } finally {
      this.abort.unlink();
      await this.session?.dispose();
      await this.run?.close();
    }
  }

  private async open(): Promise<string | null> {
    const { input } = this;
    const { options } = input;
    const perStep = options.gradientAccumulationSteps;
    this.stepsPerEpoch = await countSteps(input.train, perStep, 1);
    this.totalSteps =
      options.maxSteps > 0
        ? options.maxSteps
        : await countSteps(input.train, perStep, options.numTrainEpochs);
    if (this.stepsPerEpoch === 0)
      throw new LowrankError('ERR_LOWRANK_INVALID_DATA', 'there is nothing to train on', {
        hint: 'the training split is empty: give more rows or another split ratio',
      });
    this.run = await RunFolder.open(input.outputDir, input.resumeFromCheckpoint !== undefined);
    const checkpoint =
      input.resumeFromCheckpoint === undefined
        ? null
        : await findCheckpoint(this.run, input.resumeFromCheckpoint);
    if (checkpoint !== null) {
      const state = await readCheckpointState(checkpoint);
      checkFingerprint(state, this.fingerprint(), checkpoint);
      this.target = await input.reload(checkpoint);
      this.progress = {
        step: state.step,
        tokens: state.tokens,
        labelTokens: state.label_tokens,
      };
      this.reader = new StepReader(input.train, perStep, state.position);
      this.stopping = new EarlyStopping(
        options.earlyStoppingPatience,
        options.earlyStoppingThreshold,
        state.early_stopping,
      );
    }
    const { train, validation } = input;
    this.session = await this.target.model.createSession(
      this.target.adapter,
      nativeSessionOptions(options, {
        maxTokens: Math.max(train.maxBatchTokens, validation?.maxBatchTokens ?? 0),
        maxLabels: Math.max(train.maxBatchLabels, validation?.maxBatchLabels ?? 0),
      }),
    );
    if (checkpoint !== null)
      await this.session.loadState(join(checkpoint, 'optimizer.safetensors'));
    await this.run.writeManifest({
      ...input.manifest,
      total_steps: this.totalSteps,
      data_fingerprint: input.train.fingerprint,
      plan: this.session.plan(),
    });
    await this.run.openMetrics(this.progress.step);
    return checkpoint;
  }

  private async *steps(): AsyncGenerator<TrainEvent, EndEvent['reason']> {
    const { options, validation } = this.input;
    const rate = createSchedule({
      type: options.lrSchedulerType,
      learningRate: options.learningRate,
      totalSteps: this.totalSteps,
      warmup: options.warmupRatio === undefined ? options.warmupSteps : options.warmupRatio,
      numCycles: options.lrNumCycles,
      power: options.lrPower,
      minLrRatio: options.lrMinRatio,
      decay: options.lrDecaySteps,
    });
    const evalEvery = options.evalSteps ?? this.stepsPerEpoch;
    const saveEvery = options.saveSteps ?? this.stepsPerEpoch;
    while (this.progress.step < this.totalSteps) {
      if (this.abort.aborted) return yield* this.stopEarly();
      const step = this.progress.step + 1;
      const before = { ...this.reader.position };
      const event = await this.trainStep(step, await this.reader.next(), rate(step), before);
      if (event === null) return yield* this.stopEarly();
      const last = step === this.totalSteps;
      if (step % options.loggingSteps === 0 || step === 1 || last) {
        await this.logStep(event);
        yield event;
      }
      let isBest = false;
      if (validation && (step % evalEvery === 0 || last)) {
        const evaluation = await this.evaluate(validation);
        if (evaluation === null) return yield* this.stopEarly();
        isBest = evaluation.isBest;
        yield evaluation;
      }
      const stop = this.stopping.shouldStop;
      if (step % saveEvery === 0 || isBest || last || stop) yield await this.checkpoint();
      if (stop) return 'early-stopping';
    }
    return 'completed';
  }

  /** Null when the signal stopped it; nothing was changed then. */
  private async trainStep(
    step: number,
    micro: NativeMicroBatch[],
    learningRate: number,
    before: Position,
  ): Promise<StepEvent | null> {
    let result;
    try {
      result = await this.session.step(micro, { learningRate, step }, this.abort.flag);
    } catch (error) {
      Object.assign(this.reader.position, before);
      throw await this.explainFailedStep(error, step);
    }
    if (result.aborted) {
      // A checkpoint written now must begin with this step again.
      Object.assign(this.reader.position, before);
      return null;
    }
    this.progress = {
      step,
      tokens: this.progress.tokens + result.tokens,
      labelTokens: this.progress.labelTokens + result.labelTokens,
    };
    return {
      type: 'step',
      step,
      epoch: this.epoch(),
      loss: result.loss,
      gradNorm: result.gradNorm,
      learningRate,
      tokens: result.tokens,
      labelTokens: result.labelTokens,
      accuracy: result.labelTokens > 0 ? result.correct / result.labelTokens : 0,
      seconds: result.seconds,
      tokensPerSecond: result.tokens / result.seconds,
      peakMemoryBytes: loadAddon().memory().peakResidentBytes,
    };
  }

  private async evaluate(validation: BatchSource): Promise<EvalEvent | null> {
    const started = performance.now();
    const result = await evaluateBatches(this.session, validation, this.abort.flag);
    if (result === null) return null;
    const { step } = this.progress;
    const event: EvalEvent = {
      type: 'eval',
      step,
      epoch: this.epoch(),
      loss: result.loss,
      accuracy: result.accuracy,
      labelTokens: result.labelTokens,
      seconds: (performance.now() - started) / 1000,
      isBest: this.stopping.record(step, result.loss),
    };
    await this.run.appendMetrics({
      step,
      epoch: event.epoch,
      eval_loss: event.loss,
      eval_accuracy: event.accuracy,
      eval_label_tokens: event.labelTokens,
      eval_runtime: event.seconds,
    });
    return event;
  }

  private async logStep(event: StepEvent): Promise<void> {
    await this.run.appendMetrics({
      step: event.step,
      epoch: event.epoch,
      loss: event.loss,
      grad_norm: event.gradNorm,
      learning_rate: event.learningRate,
      accuracy: event.accuracy,
      tokens: event.tokens,
      label_tokens: event.labelTokens,
      tokens_per_second: event.tokensPerSecond,
      peak_memory_bytes: event.peakMemoryBytes,
    });
  }

  private async checkpoint(): Promise<TrainEvent> {
    const { step } = this.progress;
    const state: CheckpointState = {
      format: 1,
      step,
      position: { ...this.reader.position },
      tokens: this.progress.tokens,
      label_tokens: this.progress.labelTokens,
      fingerprint: this.fingerprint(),
      early_stopping: this.stopping.state,
    };
    const source = {
      ...this.target,
      session: this.session,
      baseModelName: this.input.baseModelName,
      training: this.summary(),
    };
    const path = await writeCheckpoint(this.run, source, state);
    const { bestStep, bestLoss } = this.stopping.state;
    if (bestStep === step && bestLoss !== null)
      await this.run.writePointer('best', {
        step,
        checkpoint: `checkpoints/step-${step}`,
        eval_loss: bestLoss,
      });
    await this.run.prune(this.input.options.saveTotalLimit, bestStep);
    return { type: 'checkpoint', step, path };
  }

  private async *stopEarly(): AsyncGenerator<TrainEvent, 'aborted'> {
    if (this.progress.step > 0) yield await this.checkpoint();
    return 'aborted';
  }

  /** A NaN leaves parameters as they were before the step, so that state is still worth keeping. */
  private async explainFailedStep(error: unknown, step: number): Promise<unknown> {
    const failure = fromNative(error);
    if (!(failure instanceof LowrankError) || failure.code !== 'ERR_LOWRANK_NOT_FINITE')
      return failure;
    if (this.progress.step > 0) await this.checkpoint();
    const kept =
      this.progress.step > 0
        ? `the state before it is in ${this.run.checkpointPath(this.progress.step)}; `
        : '';
    return new LowrankError(failure.code, `step ${step}: ${failure.message}`, {
      where: failure.where,
      hint: `${kept}lower the learning rate, add warmup, or look for bad rows with 'lowrank inspect data'`,
      cause: failure,
    });
  }

  private async restoreBest(): Promise<void> {
    const { bestStep } = this.stopping.state;
    if (!this.input.options.loadBestModelAtEnd || bestStep === null) return;
    if (bestStep === this.progress.step) return;
    const path = this.run.checkpointPath(bestStep);
    this.target = await this.input.reload(path);
    const { step, tokens, label_tokens: labelTokens } = await readCheckpointState(path);
    this.result = { step, tokens, labelTokens };
  }

  /** The final adapter, or the final model after full fine-tuning. */
  private async saveResult(): Promise<string> {
    const { adapter, model } = this.target;
    const path = join(this.run.path, adapter ? 'adapter' : 'model');
    if (adapter) await saveAdapterFolder(adapter, path, this.input.baseModelName, this.summary());
    else await saveModel(model, path, this.input.baseModelName);
    return path;
  }

  /** What the target has learnt from, for its model card. */
  summary(): TrainingSummary {
    const { step, tokens, labelTokens } = this.result ?? this.progress;
    return { examples: this.input.train.examples, steps: step, tokens, labelTokens };
  }

  private epoch(): number {
    return this.reader.epochs;
  }

  private fingerprint(): CheckpointState['fingerprint'] {
    return {
      ...trainingFingerprint(this.input.options),
      total_steps: this.totalSteps,
      data: this.input.train.fingerprint,
      trained: this.target.adapter ? 'adapter' : 'model',
    };
  }
}

async function saveModel(model: NativeModel, path: string, tokenizerFrom: string): Promise<void> {
  const { compute } = model.info();
  await model.save(path, compute === 'bf16' ? 'bf16' : 'f32');
  await copyTokenizerFiles(tokenizerFrom, path);
}
