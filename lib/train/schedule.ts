// Learning-rate schedules, with the names and formulas of transformers' get_scheduler, so that a run
// here and a run there see the same rate at every step. A schedule is a pure function of the step.

import { LowrankError } from '../errors.js';

export const SCHEDULE_NAMES = [
  'constant',
  'constant_with_warmup',
  'linear',
  'cosine',
  'cosine_with_min_lr',
  'cosine_with_restarts',
  'polynomial',
  'inverse_sqrt',
  'warmup_stable_decay',
] as const;
export type ScheduleName = (typeof SCHEDULE_NAMES)[number];

export interface ScheduleOptions {
  type: ScheduleName;
  learningRate: number;
  totalSteps: number;
  /** Steps when 1 or more, a share of all steps when below 1. */
  warmup?: number;
  /** cosine: half-waves times two (default 0.5); cosine_with_restarts: restarts (default 1). */
  numCycles?: number;
  /** polynomial: exponent (default 1). */
  power?: number;
  /** Final rate as a share of the peak: cosine_with_min_lr, warmup_stable_decay (default 0), polynomial. */
  minLrRatio?: number;
  /** warmup_stable_decay: steps of the decay, or a share of all steps when below 1 (default 0.1). */
  decay?: number;
}

/** Steps from a number that is a count (1 or more, or 0) or a share (below 1, rounded up). */
export function resolveSteps(value: number, totalSteps: number): number {
  return value < 1 ? Math.ceil(totalSteps * value) : Math.floor(value);
}

/**
 * The learning rate of each optimizer step, counted from 1. As in transformers, the rate of step s is
 * the schedule's value after s - 1 completed steps, so a warmup starts at 0.
 */
export function createSchedule(options: ScheduleOptions): (step: number) => number {
  const { type, learningRate, totalSteps } = options;
  const warmup = type === 'constant' ? 0 : resolveSteps(options.warmup ?? 0, totalSteps);
  const factor = decayFactor(options, warmup);
  // transformers starts only this schedule's warmup at its floor.
  const start = type === 'warmup_stable_decay' ? (options.minLrRatio ?? 0) : 0;
  return (step) => {
    const done = step - 1;
    if (done < warmup) return learningRate * (start + ((1 - start) * done) / warmup);
    return learningRate * factor(done);
  };
}

function decayFactor(options: ScheduleOptions, warmup: number): (done: number) => number {
  const { totalSteps } = options;
  const span = Math.max(1, totalSteps - warmup);
  const progress = (done: number) => (done - warmup) / span;
  const cosine = (p: number, cycles: number) =>
    Math.max(0, 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * p)));
  const floor = options.minLrRatio ?? 0;

  switch (options.type) {
    case 'constant':
    case 'constant_with_warmup':
      return () => 1;
    case 'linear':
      return (done) => Math.max(0, (totalSteps - done) / span);
    case 'cosine':
      return (done) => cosine(progress(done), options.numCycles ?? 0.5);
    case 'cosine_with_min_lr':
      return (done) => cosine(progress(done), options.numCycles ?? 0.5) * (1 - floor) + floor;
    case 'cosine_with_restarts': {
      const cycles = options.numCycles ?? 1;
      return (done) => {
        const p = progress(done);
        return p >= 1 ? 0 : Math.max(0, 0.5 * (1 + Math.cos(Math.PI * ((cycles * p) % 1))));
      };
    }
    case 'polynomial': {
      // transformers' default end rate is 1e-7 in absolute terms.
      const end = options.minLrRatio ?? 1e-7 / options.learningRate;
      return (done) =>
        done > totalSteps ? end : (1 - end) * (1 - progress(done)) ** (options.power ?? 1) + end;
    }
    case 'inverse_sqrt': {
      const timescale = warmup || 10_000;
      const shift = timescale - warmup;
      return (done) => 1 / Math.sqrt((done + shift) / timescale);
    }
    case 'warmup_stable_decay': {
      const decay = resolveSteps(options.decay ?? 0.1, totalSteps);
      const stableEnd = totalSteps - decay;
      return (done) => {
        if (done < stableEnd) return 1;
        if (done >= totalSteps) return floor;
        const p = (done - stableEnd) / Math.max(1, decay);
        return cosine(p, options.numCycles ?? 0.5) * (1 - floor) + floor;
      };
    }
    default:
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', `unknown schedule '${options.type}'`, {
        where: 'lrSchedulerType',
        hint: `use one of ${SCHEDULE_NAMES.join(', ')}`,
      });
  }
}
