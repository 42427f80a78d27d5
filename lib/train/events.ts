// What a run tells while it goes. The command line prints these, `--json` writes them as they are.

import type { NativePlanReport } from '../native/addon.js';

export interface StartEvent {
  type: 'start';
  totalSteps: number;
  stepsPerEpoch: number;
  firstStep: number;
  trainableParameters: number;
  trainExamples: number;
  validationExamples: number;
  plan: NativePlanReport;
  /** The checkpoint this run continues from. */
  resumedFrom?: string;
}

export interface StepEvent {
  type: 'step';
  step: number;
  epoch: number;
  /** Nats per label token, over the whole step. */
  loss: number;
  /** Before clipping. */
  gradNorm: number;
  learningRate: number;
  tokens: number;
  labelTokens: number;
  /** Share of label tokens that were the most likely one. */
  accuracy: number;
  seconds: number;
  tokensPerSecond: number;
  peakMemoryBytes: number;
}

export interface EvalEvent {
  type: 'eval';
  step: number;
  epoch: number;
  loss: number;
  accuracy: number;
  labelTokens: number;
  seconds: number;
  isBest: boolean;
}

export interface CheckpointEvent {
  type: 'checkpoint';
  step: number;
  path: string;
}

export interface EndEvent {
  type: 'end';
  reason: 'completed' | 'early-stopping' | 'aborted';
  step: number;
  bestStep: number | null;
  bestLoss: number | null;
  /** Where the adapter (or the model, after full fine-tuning) was written. */
  outputPath: string | null;
  seconds: number;
}

export type TrainEvent = StartEvent | StepEvent | EvalEvent | CheckpointEvent | EndEvent;
