import { appendFileSync, readdirSync, truncateSync } from 'node:fs';
import path from 'node:path';

import { describe, expect, test } from 'vitest';

import { loadDataset, prepareDataset } from '../../lib/data/index.js';
import type { PrepareOptions } from '../../lib/data/options.js';
import { ALL_TRAIN, chats, collect, failure } from './support/prepare.js';
import { chat, temporaryFolder, writeLines, writeTextModel } from './support/text_model.js';

describe('the cache', () => {
  test('is found again, and missed when anything that matters changes', async () => {
    const model = writeTextModel();
    const folder = temporaryFolder();
    const cacheDir = path.join(folder, 'cache');
    const file = writeLines(path.join(folder, 'a.jsonl'), chats(20));
    const run = async (more: PrepareOptions = {}): Promise<{ hit: boolean; ids: number[][] }> => {
      const data = await prepareDataset(await loadDataset(file), {
        model,
        cacheDir,
        split: ALL_TRAIN,
        ...more,
      });
      const ids = (await collect(data)).map(({ inputIds }) => Array.from(inputIds));
      await data.close();
      return { hit: data.report.cache.hit, ids };
    };
    const first = await run();
    expect(first.hit).toBe(false);
    expect(await run()).toEqual({ hit: true, ids: first.ids });
    // Dividing the data is no part of the cache.
    expect((await run({ split: [0.5, 0.5, 0] })).hit).toBe(true);
    for (const options of [
      { maxLength: 40 },
      { truncation: 'drop' },
      { stopTokenIds: [5, 6] },
      { templateVariables: { a: 1 } },
      { model: writeTextModel({ template: 'sections' }) },
      { model: writeTextModel({ kind: 'pieces' }) },
    ] satisfies PrepareOptions[]) {
      expect((await run(options)).hit).toBe(false);
      expect((await run(options)).hit).toBe(true);
    }
    appendFileSync(file, `${JSON.stringify(chat('new', 'row'))}\n`);
    expect((await run()).hit).toBe(false);
    expect((await run()).ids).toHaveLength(21);
    expect(readdirSync(cacheDir).filter((name) => !name.startsWith('data-'))).toEqual([]);
  });

  test('a damaged one is built anew', async () => {
    const model = writeTextModel();
    const cacheDir = temporaryFolder();
    const dataset = await loadDataset(chats(20));
    const run = async (): Promise<{ hit: boolean; folder: string }> => {
      const data = await prepareDataset(dataset, { model, cacheDir, split: ALL_TRAIN });
      await data.close();
      return data.report.cache;
    };
    const { folder } = await run();
    for (const name of ['tokens.bin', 'index.bin', 'meta.json']) {
      truncateSync(path.join(folder, name), 10);
      expect((await run()).hit).toBe(false);
      expect((await run()).hit).toBe(true);
    }
  });

  test('nothing is left behind by a run that is stopped or fails', async () => {
    const model = writeTextModel();
    const cacheDir = temporaryFolder();
    const controller = new AbortController();
    const endless = await loadDataset(async function* () {
      for (let i = 0; ; i++) {
        if (i === 500) controller.abort();
        yield chat(`question ${i}`, 'answer');
      }
    });
    const stopped = prepareDataset(endless, { model, cacheDir, signal: controller.signal });
    expect((await failure(stopped)).code).toBe('ERR_LOWRANK_ABORTED');
    const failing = await loadDataset(function* () {
      yield chat('a', 'b');
      throw new Error('the source broke');
    });
    await expect(prepareDataset(failing, { model, cacheDir })).rejects.toThrow('the source broke');
    expect(readdirSync(cacheDir)).toEqual([]);
  });

  test('two at once make one', async () => {
    const model = writeTextModel();
    const cacheDir = temporaryFolder();
    const run = async (): Promise<string[]> => {
      const dataset = await loadDataset(chats(50));
      const data = await prepareDataset(dataset, { model, cacheDir, split: ALL_TRAIN });
      const ids = (await collect(data)).map(({ inputIds }) => inputIds.join());
      await data.close();
      return ids;
    };
    const [one, two] = await Promise.all([run(), run()]);
    expect(one).toEqual(two);
    expect(readdirSync(cacheDir)).toHaveLength(1);
  });

  test('rows of an iterator have the hash of their content', async () => {
    const generate = function* (): Generator<unknown> {
      yield* chats(20);
    };
    const reports = [];
    const cacheDir = temporaryFolder();
    const model = writeTextModel();
    for (let i = 0; i < 2; i++) {
      const data = await prepareDataset(await loadDataset(generate), {
        model,
        cacheDir,
        split: ALL_TRAIN,
      });
      reports.push(data.report);
      await data.close();
    }
    expect(reports[0]!.contentHash).toBe(reports[1]!.contentHash);
    expect(reports[0]!.cache.folder).toBe(reports[1]!.cache.folder);
  });
});
