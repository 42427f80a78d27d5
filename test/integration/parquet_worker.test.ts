// The compiled package decodes Parquet on a thread; the unit tests read the sources, which can't.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { parquetWriteFile } from 'hyparquet-writer';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type * as data from '../../lib/data/index.js';

let folder: string;
let loadDataset: typeof data.loadDataset;

beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'lowrank-parquet-'));
  const built = new URL('../../dist/data/index.js', import.meta.url).href;
  ({ loadDataset } = (await import(built)) as typeof data);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('all rows in order, also when the reader stops early', async () => {
  const filename = path.join(folder, 'rows.parquet');
  const text = Array.from({ length: 1000 }, (_, i) => `row ${i} 日`);
  parquetWriteFile({ filename, rowGroupSize: 300, columnData: [{ name: 'text', data: text }] });
  const dataset = await loadDataset(filename);
  const found: unknown[] = [];
  for await (const rows of dataset.rows()) found.push(...rows.map(({ row }) => row));
  expect(found).toEqual(text.map((value) => ({ kind: 'text', format: 'text', text: value })));
  for await (const rows of dataset.rows()) {
    expect(rows.length).toBeGreaterThan(0);
    break;
  }
});

test('a damaged file is named; an aborted reading ends', async () => {
  const filename = path.join(folder, 'damaged.parquet');
  writeFileSync(filename, 'PAR1 this is not one');
  const dataset = await loadDataset(filename);
  await expect(dataset.rows().next()).rejects.toMatchObject({
    code: 'ERR_LOWRANK_INVALID_FILE',
    where: filename,
    hint: expect.stringContaining('JSONL') as string,
  });
  const aborted = (await loadDataset(path.join(folder, 'rows.parquet'))).rows(AbortSignal.abort());
  await expect(aborted.next()).rejects.toThrow('abort');
});
