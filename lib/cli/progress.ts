// What a person sees while a run goes: a live block on a terminal, plain lines elsewhere, JSON lines
// with --json (those go to standard output, everything for people to standard error).

import asciichart from 'asciichart';
import { createLogUpdate } from 'log-update';
import pc from 'picocolors';

import type { TrainEvent } from '../train/events.js';

export interface Reporter {
  event(event: TrainEvent): void;
  close(): void;
}

export function createReporter(json: boolean): Reporter {
  if (json)
    return {
      event: (event) => void process.stdout.write(JSON.stringify(event) + '\n'),
      close() {},
    };
  const live = process.stderr.isTTY === true && !process.env['CI'];
  return live ? new LiveReporter() : new LineReporter();
}

export function formatBytes(bytes: number): string {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

export function formatDuration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  const h = Math.floor(s / 3600);
  const m = Math.floor((s % 3600) / 60);
  if (h > 0) return `${h}h${String(m).padStart(2, '0')}m`;
  return m > 0 ? `${m}m${String(s % 60).padStart(2, '0')}s` : `${s}s`;
}

/** One line for an event; undefined for events that have nothing to say. */
export function describeEvent(event: TrainEvent, totalSteps: number): string | undefined {
  switch (event.type) {
    case 'start':
      return [
        `training ${event.trainableParameters.toLocaleString('en')} parameters`,
        `${event.trainExamples} examples (${event.validationExamples} for validation)`,
        `${event.totalSteps} steps`,
        `plan ${formatBytes(event.plan.totalBytes)}, ${event.plan.recomputedLayers} of ${event.plan.layers} layers recomputed`,
        ...(event.resumedFrom ? [`continuing from ${event.resumedFrom}`] : []),
      ].join(' · ');
    case 'step':
      return (
        `step ${event.step}/${totalSteps}  loss ${event.loss.toFixed(4)}  ` +
        `lr ${event.learningRate.toExponential(2)}  grad norm ${event.gradNorm.toFixed(3)}  ` +
        `${event.tokensPerSecond.toFixed(0)} tokens/s  ${formatBytes(event.peakMemoryBytes)}`
      );
    case 'eval':
      return (
        `eval at step ${event.step}: loss ${event.loss.toFixed(4)}  ` +
        `accuracy ${(event.accuracy * 100).toFixed(1)} %${event.isBest ? '  (best so far)' : ''}`
      );
    case 'checkpoint':
      return `checkpoint ${event.path}`;
    case 'end':
      return `${endText(event.reason)} after ${event.step} steps in ${formatDuration(event.seconds)}${
        event.outputPath ? ` · saved in ${event.outputPath}` : ''
      }`;
  }
}

function endText(reason: string): string {
  if (reason === 'aborted') return 'stopped on request';
  return reason === 'early-stopping' ? 'stopped early (no more improvement)' : 'finished';
}

class LineReporter implements Reporter {
  private totalSteps = 0;

  event(event: TrainEvent): void {
    if (event.type === 'start') this.totalSteps = event.totalSteps;
    const line = describeEvent(event, this.totalSteps);
    if (line !== undefined) process.stderr.write(line + '\n');
  }

  close(): void {}
}

const CHART_WIDTH = 60;

class LiveReporter implements Reporter {
  private readonly log = createLogUpdate(process.stderr);
  private totalSteps = 0;
  private readonly losses: number[] = [];
  private secondsPerStep = 0;
  private lastEval = '';

  event(event: TrainEvent): void {
    if (event.type === 'start') this.totalSteps = event.totalSteps;
    if (event.type === 'eval') this.lastEval = describeEvent(event, this.totalSteps) ?? '';
    if (event.type !== 'step') {
      const line = describeEvent(event, this.totalSteps);
      if (line !== undefined && event.type !== 'checkpoint') {
        this.log.clear();
        process.stderr.write(line + '\n');
      }
      return;
    }
    this.losses.push(event.loss);
    // A moving average, so that the time left doesn't jump.
    this.secondsPerStep =
      this.secondsPerStep === 0 ? event.seconds : 0.9 * this.secondsPerStep + 0.1 * event.seconds;
    const left = formatDuration(this.secondsPerStep * (this.totalSteps - event.step));
    const done = Math.round((event.step / this.totalSteps) * 30);
    this.log(
      [
        asciichart.plot(thin(this.losses, CHART_WIDTH), { height: 6 }),
        `${pc.green('█'.repeat(done))}${pc.dim('░'.repeat(30 - done))} ${left} left`,
        describeEvent(event, this.totalSteps) ?? '',
        ...(this.lastEval ? [pc.dim(this.lastEval)] : []),
      ].join('\n'),
    );
  }

  close(): void {
    this.log.done();
  }
}

/** At most `width` points, each the mean of its share of the values. */
export function thin(values: number[], width: number): number[] {
  if (values.length <= width) return values;
  return Array.from({ length: width }, (_, i) => {
    const from = Math.floor((i * values.length) / width);
    const part = values.slice(
      from,
      Math.max(from + 1, Math.floor(((i + 1) * values.length) / width)),
    );
    return part.reduce((a, b) => a + b, 0) / part.length;
  });
}
