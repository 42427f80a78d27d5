// Figures as CSV with what they were measured on, one file per bench, so that a slow-down is seen.

import { execFile } from 'node:child_process';
import { appendFile, mkdir, stat } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

export type ResultRow = Record<string, string | number>;

/** What every row says of its origin: date, version, commit ("" outside a checkout), processor. */
async function origin(): Promise<ResultRow> {
  const commit = await promisify(execFile)('git', ['rev-parse', '--short', 'HEAD']).then(
    ({ stdout }) => stdout.trim(),
    () => '',
  );
  return {
    date: new Date().toISOString().slice(0, 19),
    commit,
    machine: os.cpus()[0]?.model ?? '',
    cores: os.availableParallelism(),
  };
}

const cell = (value: string | number) =>
  typeof value === 'number'
    ? String(Number(value.toPrecision(6)))
    : /[",\n]/.test(value)
      ? `"${value.replaceAll('"', '""')}"`
      : value;

/** Appends rows to FOLDER/NAME.csv; a new file begins with the names of the columns. */
export async function saveResults(folder: string, name: string, rows: readonly object[]) {
  const from = await origin();
  await mkdir(folder, { recursive: true });
  const file = path.join(folder, `${name}.csv`);
  const lines = rows.map((row) => ({ ...from, ...row }) as ResultRow);
  const isNew = await stat(file).then(
    () => false,
    () => true,
  );
  const text = lines.map((line) => Object.values(line).map(cell).join(',') + '\n').join('');
  await appendFile(file, (isNew ? Object.keys(lines[0] ?? {}).join(',') + '\n' : '') + text);
}
