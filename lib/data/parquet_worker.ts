// The thread that decodes Parquet. Answers each message with one batch of rows; undefined at the end.
import { parentPort, workerData } from 'node:worker_threads';
import { LowrankError } from '../errors.js';
import { parquetRows } from './parquet_rows.js';
import type { SourceRow } from './source.js';

export interface WorkerAnswer {
  rows?: SourceRow[];
  error?: { code?: LowrankError['code']; message: string; where?: string; hint?: string };
}

const port = parentPort;
if (port) {
  const rows = parquetRows(workerData as string);
  port.on('message', () => {
    rows.next().then(
      ({ value }) =>
        port.postMessage({ rows: value as SourceRow[] | undefined } satisfies WorkerAnswer),
      (reason: unknown) => {
        const { message } = reason as Error;
        const { code, where, hint } =
          reason instanceof LowrankError ? reason : ({} as LowrankError);
        port.postMessage({ error: { code, message, where, hint } } satisfies WorkerAnswer);
      },
    );
  });
}
