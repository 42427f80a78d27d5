// CSV and TSV with a header line. A record with too many or too few fields is one bad row; a quote that
// is never closed ends the file.
import { createReadStream } from 'node:fs';
import { parse, type CsvError } from 'csv-parse';
import { JSON_COLUMNS } from './rows.js';
import type { SourceRow } from './source.js';

interface Record {
  record: string[];
  info: { lines: number };
}

export async function* readCsv(file: string, delimiter: string): AsyncGenerator<SourceRow[]> {
  const skipped: SourceRow[] = [];
  const parser = parse({
    delimiter,
    bom: true,
    info: true,
    skip_empty_lines: true,
    skip_records_with_error: true,
    // A TSV of the web seldom quotes; a lone quote inside a field is then text.
    relax_quotes: delimiter === '\t',
    on_skip: (error) => {
      if (error) skipped.push(describeCsvError(error));
      return undefined;
    },
  });
  const input = createReadStream(file, { highWaterMark: 1 << 16 });
  input.on('error', (error) => parser.destroy(error));
  input.pipe(parser);
  let header: string[] | undefined;
  let rows: SourceRow[] = [];
  try {
    for await (const item of parser) {
      const { record, info } = item as Record;
      if (!header) {
        header = record.map((name) => name.trim());
        const problem = headerProblem(header);
        if (problem !== undefined) {
          yield [{ line: 1, error: problem }];
          return;
        }
        continue;
      }
      const row = parseRecord(header, record, info.lines);
      // The parser runs ahead of the records that are taken from it.
      while (skipped.length > 0 && skipped[0]!.line < row.line) rows.push(skipped.shift()!);
      rows.push(row);
      if (rows.length >= 64) {
        yield rows;
        rows = [];
      }
    }
  } catch (error) {
    if (!isCsvError(error)) throw error;
    skipped.push(describeCsvError(error));
  } finally {
    input.destroy();
  }
  rows.push(...skipped);
  if (!header && rows.length === 0)
    rows.push({ line: 1, error: 'the file is empty. Write a header line first.' });
  if (rows.length > 0) yield rows;
}

function headerProblem(header: readonly string[]): string | undefined {
  const twice = header.find((name, i) => header.indexOf(name) !== i);
  if (twice !== undefined) return `the header has the column "${twice}" twice. Rename one of them.`;
  return undefined;
}

function parseRecord(
  header: readonly string[],
  record: readonly string[],
  lastLine: number,
): SourceRow {
  // csv-parse knows the line a record ends on; its fields tell how many lines it spans.
  const line = lastLine - record.reduce((sum, field) => sum + newlines(field), 0);
  const value: { [column: string]: unknown } = {};
  for (let i = 0; i < header.length; i++) {
    const cell = record[i]!;
    const name = header[i]!;
    const json =
      JSON_COLUMNS.has(name) ||
      ((name === 'prompt' || name === 'completion') && /^\s*\[\s*\{/.test(cell));
    if (!json) {
      value[name] = cell;
    } else if (cell.trim() !== '') {
      try {
        value[name] = JSON.parse(cell) as unknown;
      } catch (error) {
        return { line, error: `column "${name}" is not valid JSON: ${(error as Error).message}.` };
      }
    }
  }
  return { line, value };
}

function newlines(field: string): number {
  let count = 0;
  for (let at = field.indexOf('\n'); at >= 0; at = field.indexOf('\n', at + 1)) count++;
  return count;
}

function isCsvError(error: unknown): error is CsvError {
  return error instanceof Error && String((error as { code?: unknown }).code).startsWith('CSV_');
}

const ADVICE: { [code: string]: string } = {
  CSV_RECORD_INCONSISTENT_FIELDS_LENGTH:
    'Each record needs as many fields as the header; put quotes around fields that hold the delimiter.',
  CSV_RECORD_INCONSISTENT_COLUMNS:
    'Each record needs as many fields as the header; put quotes around fields that hold the delimiter.',
  CSV_QUOTE_NOT_CLOSED: 'Close the quote; a quote inside a quoted field is written twice ("").',
  INVALID_OPENING_QUOTE: 'Put quotes around the whole field and write inner quotes twice ("").',
  CSV_INVALID_CLOSING_QUOTE: 'A quote inside a quoted field is written twice ("").',
};

function describeCsvError(error: CsvError): SourceRow {
  const line = Number((error as { lines?: unknown }).lines ?? 1);
  const message = error.message.replace(/\.?$/, '.');
  return { line, error: `${message} ${ADVICE[error.code] ?? ''}`.trim() };
}
