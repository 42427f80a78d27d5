// Parquet, one row group at a time. Decoding one blocks its thread for tenths of a second.
import { open } from 'node:fs/promises';
import { parquetMetadataAsync, parquetReadObjects, type AsyncBuffer } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import { LowrankError } from '../errors.js';
import { Pause } from '../pause.js';
import type { SourceRow } from './source.js';

export async function* parquetRows(
  file: string,
  signal?: AbortSignal,
): AsyncGenerator<SourceRow[]> {
  const handle = await open(file, 'r');
  try {
    const pause = new Pause(signal);
    const { size } = await handle.stat();
    const buffer: AsyncBuffer = {
      byteLength: size,
      slice: async (start, end = size) => {
        const bytes = new Uint8Array(end - start);
        const { bytesRead } = await handle.read(bytes, 0, bytes.length, start);
        if (bytesRead < bytes.length)
          throw new Error('the file is shorter than its own index says');
        return bytes.buffer;
      },
    };
    const metadata = await parquetMetadataAsync(buffer).catch((cause: unknown) => {
      throw damaged(file, cause);
    });
    let rowStart = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = rowStart + Number(group.num_rows);
      const rows = await parquetReadObjects({
        file: buffer,
        metadata,
        rowStart,
        rowEnd,
        compressors,
      }).catch((cause: unknown) => {
        throw damaged(file, cause);
      });
      for (let i = 0; i < rows.length; i += 64) {
        yield rows
          .slice(i, i + 64)
          .map((row, j) => ({ line: rowStart + i + j + 1, value: plain(row) }));
        if (pause.due) await pause.turn();
      }
      rowStart = rowEnd;
    }
  } finally {
    await handle.close();
  }
}

// 64-bit integers arrive as BigInt; what is inside the safe range becomes a number.
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value);
  if (typeof value !== 'object' || value === null || value instanceof Date) return value;
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<unknown>, plain);
  if (Array.isArray(value)) return value.map(plain);
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]));
}

function damaged(file: string, cause: unknown): LowrankError {
  const message = cause instanceof Error ? cause.message : String(cause);
  return new LowrankError('ERR_LOWRANK_INVALID_FILE', `not a readable Parquet file: ${message}`, {
    where: file,
    hint: 'Download the file again, or write it as JSONL.',
    cause,
  });
}
