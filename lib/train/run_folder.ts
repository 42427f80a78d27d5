// A run on disk: manifest, metrics, checkpoints. Plain JSON and safetensors; no database, no pickles.
//
//   run.json            what reproduces the run
//   metrics.jsonl       one line per step or evaluation
//   checkpoints/step-N  complete or absent
//   best.json last.json which checkpoint

import { open, mkdir, readFile, readdir, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';

import { LowrankError } from '../errors.js';
import { removeTemporary, writeFileAtomic } from './atomic.js';

export type MetricsLine = { step: number } & Record<string, number | string | boolean>;

export interface CheckpointPointer {
  step: number;
  checkpoint: string; // relative to the run folder
  eval_loss?: number;
}

export class RunFolder {
  private metrics: FileHandle | null = null;

  private constructor(readonly path: string) {}

  /** Opens or makes the folder. Without `resume`, a folder that already holds a run is an error. */
  static async open(path: string, resume: boolean): Promise<RunFolder> {
    const run = new RunFolder(path);
    await mkdir(run.checkpointsPath, { recursive: true });
    await removeTemporary(path);
    await removeTemporary(run.checkpointsPath);
    const existing = (await run.checkpointSteps()).length;
    if (!resume && existing > 0)
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', 'the folder already holds a run', {
        where: path,
        hint: 'choose another output folder, or continue the run with --resume-from-checkpoint last',
      });
    return run;
  }

  get checkpointsPath(): string {
    return join(this.path, 'checkpoints');
  }

  checkpointPath(step: number): string {
    return join(this.checkpointsPath, `step-${step}`);
  }

  /** Steps of the complete checkpoints, ascending. */
  async checkpointSteps(): Promise<number[]> {
    const names = await readdir(this.checkpointsPath).catch(() => [] as string[]);
    return names
      .map((name) => /^step-(\d+)$/.exec(name)?.[1])
      .filter((text) => text !== undefined)
      .map(Number)
      .sort((a, b) => a - b);
  }

  /** Keeps the newest `limit` checkpoints and the best one. */
  async prune(limit: number, bestStep: number | null): Promise<void> {
    const steps = await this.checkpointSteps();
    const doomed = steps.slice(0, Math.max(0, steps.length - limit)).filter((s) => s !== bestStep);
    for (const step of doomed)
      await rm(this.checkpointPath(step), { recursive: true, force: true });
  }

  async writeManifest(manifest: object): Promise<void> {
    await writeFileAtomic(join(this.path, 'run.json'), JSON.stringify(manifest, null, 2) + '\n');
  }

  async writePointer(which: 'best' | 'last', pointer: CheckpointPointer): Promise<void> {
    await writeFileAtomic(
      join(this.path, `${which}.json`),
      JSON.stringify(pointer, null, 2) + '\n',
    );
  }

  async readPointer(which: 'best' | 'last'): Promise<CheckpointPointer | null> {
    const text = await readFile(join(this.path, `${which}.json`), 'utf8').catch(() => null);
    return text === null ? null : (JSON.parse(text) as CheckpointPointer);
  }

  /**
   * Starts the metrics file. On resume, lines after `lastStep` belong to work that is done again and
   * are dropped, as is a line that a killed process left half written.
   */
  async openMetrics(lastStep: number): Promise<void> {
    const path = join(this.path, 'metrics.jsonl');
    const text = lastStep > 0 ? await readFile(path, 'utf8').catch(() => '') : '';
    const kept = text.split('\n').filter((line) => {
      try {
        return (JSON.parse(line) as MetricsLine).step <= lastStep;
      } catch {
        return false;
      }
    });
    await writeFileAtomic(path, kept.map((line) => line + '\n').join(''));
    this.metrics = await open(path, 'a');
  }

  async appendMetrics(line: MetricsLine): Promise<void> {
    await this.metrics?.write(JSON.stringify(line) + '\n');
  }

  async close(): Promise<void> {
    await this.metrics?.close();
    this.metrics = null;
  }
}
