// A JSON file that holds an array of rows (or rows one after the other), cut into rows while it is read:
// only one row is ever in memory.
import { createReadStream } from 'node:fs';
import { Pause } from '../pause.js';
import { isTooLong, parseValue, tooLong } from './read_jsonl.js';
import type { SourceRow } from './source.js';

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const NEWLINE = 0x0a;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

const ADVICE = 'The file must hold an array of objects: [{...}, {...}].';

export async function* readJson(file: string, signal?: AbortSignal): AsyncGenerator<SourceRow[]> {
  const pause = new Pause(signal);
  const splitter = new RowSplitter();
  for await (const chunk of createReadStream(file, { highWaterMark: 1 << 16, signal })) {
    let rows = splitter.push(chunk as Buffer);
    while (rows.length > 64) {
      yield rows.slice(0, 64);
      rows = rows.slice(64);
    }
    if (rows.length > 0) yield rows;
    if (pause.due) await pause.turn();
  }
  const rest = splitter.end();
  if (rest.length > 0) yield rest;
}

class RowSplitter {
  private depth = 0;
  private base = -1; // depth at which rows lie: 1 inside an array, 0 without one, -1 not known yet
  private inString = false;
  private escaped = false;
  private line = 1;
  private rowLine = 0; // line of the current row's first byte; 0 = between rows
  private parts: Buffer[] = [];
  private length = 0;
  private closed = false;
  private rows: SourceRow[] = [];

  push(chunk: Buffer): SourceRow[] {
    let start = this.rowLine > 0 ? 0 : -1;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!;
      if (byte === NEWLINE) this.line++;
      if (this.inString) {
        if (this.escaped) this.escaped = false;
        else if (byte === BACKSLASH) this.escaped = true;
        else if (byte === QUOTE) this.inString = false;
        continue;
      }
      if (byte <= 0x20 || (byte >= 0xbb && this.base < 0)) continue; // white space, byte-order mark
      if (this.base < 0) {
        this.base = byte === OPEN_ARRAY ? 1 : 0;
        if (this.base === 1) {
          this.depth = 1;
          continue;
        }
      }
      const atBase = this.depth === this.base;
      if (atBase && byte === CLOSE_ARRAY && this.base === 1) {
        if (start >= 0) this.finish(chunk.subarray(start, i));
        start = -1;
        this.depth = 0;
        this.base = 0;
        this.closed = true;
        continue;
      }
      if (atBase && byte === COMMA) {
        if (start >= 0) this.finish(chunk.subarray(start, i));
        start = -1;
        continue;
      }
      if (this.rowLine === 0) {
        this.rowLine = this.line;
        start = i;
      }
      if (byte === QUOTE) this.inString = true;
      else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) this.depth++;
      else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) {
        this.depth--;
        if (this.depth === 0 && this.base === 0) {
          this.finish(chunk.subarray(start, i + 1));
          start = -1;
        }
      }
    }
    if (start >= 0) this.keep(chunk.subarray(start));
    return this.take();
  }

  end(): SourceRow[] {
    const open = this.rowLine > 0 || this.base === 1;
    if (this.rowLine > 0 && this.base === 0 && !this.inString && this.depth === 0) {
      this.finish(Buffer.alloc(0)); // a bare number or word: say what it is
    } else if (open && !this.closed) {
      const error = `the file ends inside a value that begins here: it is cut short. ${ADVICE}`;
      this.rows.push({ line: this.rowLine || this.line, error });
    }
    return this.take();
  }

  private keep(bytes: Buffer): void {
    this.length += bytes.length;
    if (!isTooLong(this.length)) this.parts.push(bytes);
  }

  private finish(last: Buffer): void {
    this.keep(last);
    const line = this.rowLine;
    const row = isTooLong(this.length)
      ? tooLong(line)
      : parseValue(Buffer.concat(this.parts), line, ADVICE);
    if (row) this.rows.push(row);
    this.parts = [];
    this.length = 0;
    this.rowLine = 0;
  }

  private take(): SourceRow[] {
    const rows = this.rows;
    this.rows = [];
    return rows;
  }
}
