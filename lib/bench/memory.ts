// The memory plan against what a process really needs, over combinations of shape, method, length
// and checkpointing: each in a process of its own, because a process's peak never goes down.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import type { TrainBenchRow } from './train.js';

export interface MemoryBenchOptions {
  shapes: string[];
  dtype: 'f32' | 'bf16';
  seqs: number[];
  threads?: number;
  isa?: string;
}

export interface MemoryBenchRow {
  shape: string;
  method: string;
  dtype: string;
  seq: number;
  checkpointing: string;
  /** The plan and what the process held before the model. */
  predicted_bytes: number;
  measured_bytes: number;
  /** measured / predicted. */
  ratio: number;
}

const METHODS = ['lora', 'qlora', 'full'] as const;
const CHECKPOINTING = ['none', 'block'] as const;

/** Rows come as they are measured. */
export async function* benchMemory(options: MemoryBenchOptions): AsyncGenerator<MemoryBenchRow> {
  const main = fileURLToPath(new URL('../cli/main.js', import.meta.url));
  const run = promisify(execFile);
  for (const shape of options.shapes)
    for (const method of METHODS)
      for (const seq of options.seqs)
        for (const checkpointing of CHECKPOINTING) {
          const flags = ['bench', 'train', '--json', '--steps', '1', '--shape', shape];
          flags.push('--method', method, '--dtype', options.dtype, '--seq', String(seq));
          flags.push('--checkpointing', checkpointing);
          flags.push('--device', 'cpu'); // what is measured is the process's memory
          if (options.threads !== undefined) flags.push('--threads', String(options.threads));
          if (options.isa !== undefined) flags.push('--isa', options.isa);
          const { stdout } = await run(process.execPath, [main, ...flags]);
          const row = (JSON.parse(stdout) as { row: TrainBenchRow }).row;
          const predicted = row.planned_bytes + row.process_bytes;
          yield {
            shape,
            method,
            dtype: options.dtype,
            seq,
            checkpointing,
            predicted_bytes: predicted,
            measured_bytes: row.peak_memory_bytes,
            ratio: row.peak_memory_bytes / predicted,
          };
        }
}
