import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parquetWriteFile } from 'hyparquet-writer';
import { describe, expect, test } from 'vitest';
import { loadDataset } from '../../lib/data/index.js';
import type { Dataset } from '../../lib/data/dataset.js';
import { openPath, type SourceRow } from '../../lib/data/source.js';
import { chat, temporaryFolder, writeLines } from './support/text_model.js';

async function read(location: string): Promise<SourceRow[]> {
  const rows: SourceRow[] = [];
  for (const source of await openPath(location)) {
    for await (const batch of source.rows()) rows.push(...batch);
  }
  return rows;
}

async function readText(name: string, text: string | Uint8Array): Promise<SourceRow[]> {
  const file = path.join(temporaryFolder(), name);
  writeFileSync(file, text);
  return read(file);
}

async function all(dataset: Dataset): Promise<unknown[]> {
  const rows: unknown[] = [];
  for await (const batch of dataset.rows()) rows.push(...batch);
  return rows;
}

describe('JSON lines', () => {
  test('blank lines, line ends of Windows, a byte-order mark, no last line end', async () => {
    expect(await readText('a.jsonl', '\ufeff{"a":1}\r\n\n  \n{"a":"é🦙"}')).toEqual([
      { line: 1, value: { a: 1 } },
      { line: 4, value: { a: 'é🦙' } },
    ]);
    expect(await readText('a.ndjson', '')).toEqual([]);
  });

  test('bad lines are reported with their number, the others are read', async () => {
    const bytes = Buffer.concat([
      Buffer.from('{"a":1}\n{"a":\n'),
      Buffer.of(0xff, 0x0a),
      Buffer.from('3\n'),
    ]);
    const rows = await readText('a.jsonl', bytes);
    expect(rows).toMatchObject([{ line: 1 }, { line: 2 }, { line: 3 }, { line: 4, value: 3 }]);
    expect(rows[1]).toHaveProperty(
      'error',
      expect.stringMatching(/^not valid JSON: .*Each line must/),
    );
    expect(rows[2]).toHaveProperty('error', 'not valid UTF-8. Save the file as UTF-8.');
  });

  test('lines that span the chunks of the file', async () => {
    const rows = Array.from({ length: 30 }, (_, i) => ({ i, text: '日'.repeat(i * 1500) }));
    const file = writeLines(path.join(temporaryFolder(), 'long.jsonl'), rows);
    const found = await read(file);
    expect(found.map((row) => ('value' in row ? row.value : row.error))).toEqual(rows);
    expect(found.at(-1)!.line).toBe(30);
  });
});

describe('JSON', () => {
  test('an array, over lines and chunks', async () => {
    const rows = Array.from({ length: 2000 }, (_, i) => ({
      i,
      text: `"],[{\\ ${'x'.repeat(i % 97)}`,
      list: [[i], {}],
    }));
    const found = await readText('a.json', JSON.stringify(rows, null, 2));
    expect(found.map((row) => ('value' in row ? row.value : row.error))).toEqual(rows);
    expect(found[0]!.line).toBe(2);
    expect(found[1]!.line).toBe(12);
  });

  test('values one after the other, empty arrays, a byte-order mark', async () => {
    expect(await readText('a.json', '{"a":1}\n{"a":[2]}\n')).toMatchObject([
      { line: 1 },
      { line: 2 },
    ]);
    expect(await readText('a.json', '[]')).toEqual([]);
    expect(await readText('a.json', ' \n')).toEqual([]);
    expect(await readText('a.json', '\ufeff[{"a":1}, 2, "x,y"]')).toMatchObject([
      { value: { a: 1 } },
      { value: 2 },
      { value: 'x,y' },
    ]);
  });

  test('a file that is cut short, and rows that are broken', async () => {
    const cut = await readText('a.json', '[{"a":1},\n{"a":');
    expect(cut[1]).toMatchObject({ line: 2, error: expect.stringContaining('it is cut short') });
    const unclosed = await readText('a.json', '[{"a":1},\n{"a":2}');
    expect(unclosed.at(-1)).toMatchObject({ error: expect.stringContaining('cut short') });
    const broken = await readText('a.json', '[{"a":1},\n{"a" 2},{"a":3}]');
    expect(broken[1]).toMatchObject({ line: 2, error: expect.stringContaining('not valid JSON') });
    expect(broken[2]).toMatchObject({ value: { a: 3 } });
    expect(await readText('a.json', 'hello')).toMatchObject([
      { error: expect.stringContaining('JSON') },
    ]);
  });
});

describe('CSV', () => {
  test('quotes, line ends inside fields, JSON columns, the line a record begins on', async () => {
    const text =
      '\ufeffprompt,completion,tools\r\n"a ""b""\nc",d,\r\n\r\ne,f,"[{""x"": 1}]"\r\n"[{""role"":""user""}]",g,\r\n';
    expect(await readText('a.csv', text)).toEqual([
      { line: 2, value: { prompt: 'a "b"\nc', completion: 'd' } },
      { line: 5, value: { prompt: 'e', completion: 'f', tools: [{ x: 1 }] } },
      { line: 6, value: { prompt: [{ role: 'user' }], completion: 'g' } },
    ]);
  });

  test('TSV', async () => {
    expect(await readText('a.tsv', 'prompt\tcompletion\na, "b"\tc\n')).toEqual([
      { line: 2, value: { prompt: 'a, "b"', completion: 'c' } },
    ]);
  });

  test('records with the wrong number of fields, with their lines', async () => {
    const rows = await readText('a.csv', 'a,b\n1,2\n3\n4,5,6\n7,8\n');
    expect(rows.map(({ line }) => line)).toEqual([2, 3, 4, 5]);
    expect(rows[1]).toHaveProperty(
      'error',
      expect.stringMatching(/expect 2, got 1 on line 3.*quotes/s),
    );
    expect(rows[2]).toHaveProperty('error', expect.stringContaining('got 3 on line 4'));
    expect(rows[3]).toEqual({ line: 5, value: { a: '7', b: '8' } });
  });

  test('a quote that is never closed, JSON that is none, a column twice, an empty file', async () => {
    const open = await readText('a.csv', 'a,b\n1,2\n"3,4\n');
    expect(open[0]).toEqual({ line: 2, value: { a: '1', b: '2' } });
    expect(open[1]).toHaveProperty('error', expect.stringContaining('Close the quote'));
    const json = await readText('a.csv', 'messages\n[oops\n');
    expect(json).toMatchObject([
      { line: 2, error: expect.stringContaining('column "messages" is not valid JSON') },
    ]);
    expect(await readText('a.csv', 'a,a\n1,2\n')).toMatchObject([
      { line: 1, error: expect.stringContaining('"a" twice') },
    ]);
    expect(await readText('a.csv', '')).toMatchObject([
      { error: expect.stringContaining('the file is empty') },
    ]);
  });
});

describe('Parquet', () => {
  function write(file: string, count: number, rowGroupSize: number): void {
    const column = <T>(make: (i: number) => T): T[] =>
      Array.from({ length: count }, (_, i) => make(i));
    parquetWriteFile({
      filename: file,
      rowGroupSize,
      columnData: [
        { name: 'messages', data: column((i) => chat(`q${i}`, `日 a${i}`).messages), type: 'JSON' },
        { name: 'n', data: column((i) => BigInt(i)), type: 'INT64' },
        { name: 'system', data: column((i) => (i % 2 === 0 ? null : 's')), type: 'STRING' },
      ],
    });
  }

  test('row groups, 64-bit numbers and nulls', async () => {
    const file = path.join(temporaryFolder(), 'a.parquet');
    write(file, 150, 70);
    const rows = await read(file);
    expect(rows.map(({ line }) => line)).toEqual(Array.from({ length: 150 }, (_, i) => i + 1));
    expect(rows[101]).toMatchObject({
      value: { messages: chat('q101', '日 a101').messages, n: 101, system: 's' },
    });
    expect(rows[0]).toMatchObject({ value: { system: null } });
  });

  test('a file that is none', async () => {
    await expect(readText('a.parquet', 'PAR1 this is not one')).rejects.toMatchObject({
      code: 'ERR_LOWRANK_INVALID_FILE',
      where: expect.stringContaining('a.parquet'),
    });
  });
});

describe('folders', () => {
  test('all files in order of name; others and hidden ones are left alone', async () => {
    const folder = temporaryFolder();
    mkdirSync(path.join(folder, 'b'));
    mkdirSync(path.join(folder, '.cache'));
    for (const name of ['c.jsonl', 'a.jsonl', 'b/x.jsonl', '.cache/y.jsonl', 'notes.md']) {
      writeLines(path.join(folder, name), [{ text: name }]);
    }
    const dataset = await loadDataset(folder);
    expect(dataset.names).toEqual(['a.jsonl', path.join('b', 'x.jsonl'), 'c.jsonl']);
    expect(dataset.sources.map(({ split }) => split)).toEqual([undefined, undefined, undefined]);
    expect(await all(dataset)).toMatchObject([
      { source: 0, line: 1, row: { text: 'a.jsonl' } },
      { source: 1, row: { text: 'b/x.jsonl' } },
      { source: 2, row: { text: 'c.jsonl' } },
    ]);
  });

  test('names of splits count when every file has one', async () => {
    const folder = temporaryFolder();
    for (const name of ['train-0001.jsonl', 'train_2.csv', 'valid.jsonl', 'test.json']) {
      writeFileSync(path.join(folder, name), '');
    }
    const splits = async (): Promise<unknown[]> =>
      (await openPath(folder)).map(({ split }) => split);
    expect(await splits()).toEqual(['test', 'train', 'train', 'validation']);
    writeFileSync(path.join(folder, 'training_wheels.jsonl'), '');
    writeFileSync(path.join(folder, 'trainees.jsonl'), '');
    expect(await splits()).toEqual(Array.from({ length: 6 }));
  });

  test('what is not there or can not be read', async () => {
    const folder = temporaryFolder();
    await expect(loadDataset('/no/such/file.jsonl')).rejects.toMatchObject({
      code: 'ERR_LOWRANK_IO',
    });
    await expect(loadDataset(folder)).rejects.toThrow('the folder holds no data file');
    writeFileSync(path.join(folder, 'a.xlsx'), '');
    await expect(loadDataset(path.join(folder, 'a.xlsx'))).rejects.toMatchObject({
      message: "files ending in .xlsx can't be read",
      hint: expect.stringContaining('.parquet'),
    });
  });
});

describe('iterables', () => {
  const rows = Array.from({ length: 130 }, (_, i) => ({ text: `row ${i}` }));
  async function* generate(): AsyncGenerator<unknown> {
    for (const row of rows) yield row;
  }

  test('an array, a function, an iterator, several files', async () => {
    for (const source of [rows, generate, new Set(rows)]) {
      const dataset = await loadDataset(source);
      for (let pass = 0; pass < 2; pass++) {
        const found = await all(dataset);
        expect(found).toHaveLength(130);
        expect(found[129]).toMatchObject({ line: 130, row: { text: 'row 129' } });
      }
    }
    const once = await loadDataset(generate());
    expect(await all(once)).toHaveLength(130);
    await expect(all(once)).rejects.toThrow('has been read already');
    const file = writeLines(path.join(temporaryFolder(), 'a.jsonl'), rows);
    expect(await all(await loadDataset([file, file]))).toHaveLength(260);
  });

  test('a generator is only read as fast as its rows are taken', async () => {
    let made = 0;
    const dataset = await loadDataset(function* () {
      for (;;) yield { text: `row ${made++}` };
    });
    for await (const _ of dataset.rows()) if (made >= 128) break;
    expect(made).toBeLessThan(200);
  });

  test('what is no data set', async () => {
    await expect(loadDataset(3 as never)).rejects.toThrow('this is not a data set');
  });
});
