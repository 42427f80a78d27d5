// Parquet, decoded on a thread of its own, at most one batch ahead of the reader.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { LowrankError } from '../errors.js';
import { parquetRows } from './parquet_rows.js';
import type { WorkerAnswer } from './parquet_worker.js';
import type { SourceRow } from './source.js';

export async function* readParquet(
  file: string,
  signal?: AbortSignal,
): AsyncGenerator<SourceRow[]> {
  // Node runs no TypeScript in a worker: straight from the sources it is done on this thread.
  if (import.meta.url.endsWith('.ts')) {
    yield* parquetRows(file, signal);
    return;
  }
  const worker = new Worker(new URL('./parquet_worker.js', import.meta.url), { workerData: file });
  const ask = async (): Promise<WorkerAnswer> => {
    const answer = once(worker, 'message', { signal }); // rejects when the worker fails
    worker.postMessage(null);
    return ((await answer) as [WorkerAnswer])[0];
  };
  try {
    let next = ask();
    for (;;) {
      const { rows, error } = await next;
      if (error) {
        const { code = 'ERR_LOWRANK_INTERNAL', message, where, hint } = error;
        throw new LowrankError(code, message, { where, hint });
      }
      if (!rows) return;
      next = ask();
      next.catch(() => {}); // awaited in the next round, unless the reader stops here
      yield rows;
    }
  } finally {
    await worker.terminate();
  }
}
