// JSON lines: one value per line. Lines are cut as bytes; each is decoded and parsed by itself, so that
// one bad line costs one row.
import { createReadStream } from 'node:fs';
import { Pause } from '../pause.js';
import type { SourceRow } from './source.js';

const LONGEST = 64 << 20; // bytes of one row; more is a mistake, not a conversation
const decoder = new TextDecoder('utf-8', { fatal: true });

export async function* readJsonLines(
  file: string,
  signal?: AbortSignal,
): AsyncGenerator<SourceRow[]> {
  const pause = new Pause(signal);
  let rows: SourceRow[] = [];
  let line = 0;
  for await (const bytes of splitLines(file, signal)) {
    line++;
    const row = bytes === undefined ? tooLong(line) : parseValue(bytes, line, ADVICE);
    if (row) rows.push(row);
    if (rows.length === 64 || pause.due) {
      if (rows.length > 0) yield rows;
      rows = [];
      await pause.turn();
    }
  }
  if (rows.length > 0) yield rows;
}

const ADVICE = 'Each line must hold one JSON object.';

/** A row of JSON text; nothing for a blank one. */
export function parseValue(bytes: Uint8Array, line: number, advice: string): SourceRow | undefined {
  let text: string;
  try {
    text = decoder.decode(bytes); // drops a byte-order mark
  } catch {
    return { line, error: 'not valid UTF-8. Save the file as UTF-8.' };
  }
  if (text.trim() === '') return undefined;
  try {
    return { line, value: JSON.parse(text) as unknown };
  } catch (error) {
    return { line, error: `not valid JSON: ${(error as Error).message}. ${advice}` };
  }
}

export function tooLong(line: number): SourceRow {
  return { line, error: `longer than ${LONGEST >> 20} MiB. Is this one row per line?` };
}

export function isTooLong(bytes: number): boolean {
  return bytes > LONGEST;
}

// The lines of a file without their ends; undefined for one that is too long.
async function* splitLines(
  file: string,
  signal?: AbortSignal,
): AsyncGenerator<Uint8Array | undefined> {
  let parts: Buffer[] = [];
  let length = 0;
  const take = (last: Buffer): Uint8Array | undefined => {
    const long = isTooLong(length + last.length);
    const whole = long ? undefined : parts.length === 0 ? last : Buffer.concat([...parts, last]);
    parts = [];
    length = 0;
    return whole;
  };
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 18, signal })) {
    const bytes = chunk as Buffer;
    let start = 0;
    for (let end = bytes.indexOf(10); end >= 0; end = bytes.indexOf(10, start)) {
      yield take(bytes.subarray(start, end));
      start = end + 1;
    }
    const rest = bytes.subarray(start);
    length += rest.length;
    if (!isTooLong(length)) parts.push(rest);
  }
  if (length > 0) yield take(Buffer.alloc(0));
}
