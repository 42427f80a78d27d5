import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';

import { describe, expect, onTestFinished, test } from 'vitest';

import { countOverlap, loadDataset, prepareDataset } from '../../lib/data/index.js';
import type { PrepareOptions } from '../../lib/data/options.js';
import type { SplitName } from '../../lib/data/types.js';
import { Tokenizer } from '../../lib/tokenizer.js';
import { ALL_TRAIN, chats, collect, failure, prepare } from './support/prepare.js';
import {
  chat,
  temporaryFolder,
  writeJson,
  writeLines,
  writeTextModel,
} from './support/text_model.js';

describe('examples', () => {
  test('a chat: text, mask, end of turn', async () => {
    const model = writeTextModel();
    const data = await prepare({ model, rows: [chat('日本?', 'hello 🦙'), chat('a', 'b')] });
    const tokenizer = await Tokenizer.load(model);
    const [first, second] = await collect(data);
    const text = '<|im_start|>user\n日本?<|im_end|>\n<|im_start|>assistant\nhello 🦙<|im_end|>\n';
    expect(await tokenizer.decode(first!.inputIds)).toBe(text);
    const trained = first!.labels.filter((label) => label >= 0);
    expect(await tokenizer.decode(trained)).toBe('hello 🦙<|im_end|>');
    first!.labels.forEach((label, i) => expect([-100, first!.inputIds[i]]).toContain(label));
    expect(first!.weights).toBeUndefined();
    expect(second).toMatchObject({ index: 1, file: 'data', line: 2 });
  });

  test('weights, only where there are any', async () => {
    const messages = [
      { role: 'user', content: 'a' },
      { role: 'assistant', content: 'b', weight: 0 },
      { role: 'user', content: 'c' },
      { role: 'assistant', content: 'd', weight: 0.25 },
    ];
    const data = await prepare({ rows: [{ messages }, chat('a', 'b')] });
    const [weighted, plain] = await collect(data);
    const weights = Array.from(weighted!.weights!).filter((_, i) => weighted!.labels[i]! >= 0);
    expect(weights).toEqual([0.25, 0.25]);
    expect(plain!.weights).toBeUndefined();
    const batch = await (await data.plan('train', { perDeviceBatchSize: 2 })).batch(0);
    expect(Array.from(batch.weights!)).toEqual([
      ...Array.from(weighted!.weights!),
      ...Array.from({ length: plain!.inputIds.length }, () => 1),
    ]);
  });

  test('text and completions end with EOS; the prompt is not trained', async () => {
    const model = writeTextModel();
    const data = await prepare({
      model,
      rows: [
        { text: 'the cat' },
        { prompt: 'the cat sat', completion: ' on the mat' },
        { text: 'x<|im_end|>' },
      ],
    });
    const tokenizer = await Tokenizer.load(model);
    const shown = await Promise.all(
      (await collect(data)).map(async ({ inputIds, labels }) => [
        await tokenizer.decode(inputIds),
        await tokenizer.decode(labels.filter((label) => label >= 0)),
      ]),
    );
    expect(shown[0]![0]).toBe('the cat<|im_end|>');
    expect(shown[1]).toEqual(['the cat sat on the mat<|im_end|>', ' on the mat<|im_end|>']);
    expect(shown[2]![0]).toBe('x<|im_end|>');
  });

  test('the first label of an example never counts', async () => {
    const data = await prepare({ rows: [{ input_ids: [1, 2, 5], labels: [1, 2, 5] }] });
    const [example] = await collect(data);
    expect(Array.from(example!.labels)).toEqual([-100, 2, 5]);
    expect(data.report.splits.train).toEqual({ examples: 1, tokens: 3, labelTokens: 2 });
  });

  test('Alpaca with a chat template and without', async () => {
    const rows = [{ instruction: 'say hello', input: '', output: 'hello' }];
    const texts: string[] = [];
    for (const template of ['chatml', null]) {
      const model = writeTextModel({ template });
      const [example] = await collect(await prepare({ model, rows }));
      texts.push(await (await Tokenizer.load(model)).decode(example!.inputIds));
    }
    expect(texts).toEqual([
      '<|im_start|>user\nsay hello<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n',
      '### Instruction:\nsay hello\n\n### Response:\nhello<|im_end|>',
    ]);
  });

  test('tokenized rows need no tokenizer', async () => {
    const model = temporaryFolder();
    writeJson(path.join(model, 'config.json'), { vocab_size: 100, eos_token_id: 2 });
    const rows = [{ input_ids: [1, 7, 2], labels: [-100, -100, 2] }, { input_ids: [1, 9, 2] }];
    const data = await prepare({ model, rows });
    expect(data.report).toMatchObject({
      withStopToken: 2,
      formats: [{ format: 'tokenized', rows: 2 }],
    });
    expect(await failure(prepare({ model, rows: [{ text: 'x' }] }))).toMatchObject({
      code: 'ERR_LOWRANK_INVALID_FILE',
      message: 'the folder has no tokenizer.json',
    });
    const outside = await failure(prepare({ model, rows: [...rows, { input_ids: [1, 100, 2] }] }));
    expect(outside.message).toContain("data:3: token 100 is outside the model's vocabulary of 100");
  });
});

describe('length', () => {
  const words =
    'the cat sat on the mat and the dog ate the hat. what is the weather like in paris today?';

  test('rows that are too long are cut, left out, or go on', async () => {
    const rows = [{ text: words }, { text: 'the cat' }];
    const whole = (await collect(await prepare({ rows })))[0]!;
    const n = whole.inputIds.length;
    const maxLength = 8;

    const cut = await prepare({ rows, options: { maxLength } });
    expect(cut.report).toMatchObject({ truncated: 1, tooLong: 0, maxLength });
    expect(Array.from((await collect(cut))[0]!.inputIds)).toEqual(
      Array.from(whole.inputIds.slice(0, 8)),
    );

    const dropped = await prepare({ rows, options: { maxLength, truncation: 'drop' } });
    expect(dropped.report).toMatchObject({ truncated: 0, tooLong: 1, withoutLabels: 0 });
    expect(dropped.count('train')).toBe(1);

    const split = await prepare({ rows, options: { maxLength, truncation: 'split' } });
    const pieces = (await collect(split)).slice(0, -1);
    expect(pieces.every(({ inputIds }) => inputIds.length <= maxLength)).toBe(true);
    // Every token but the first is trained once.
    const trained = pieces.flatMap(({ labels }) =>
      Array.from(labels).filter((label) => label >= 0),
    );
    expect(trained).toEqual(Array.from(whole.inputIds.slice(1)));
    expect(split.report).toMatchObject({ truncated: 0, duplicates: 0 });
    expect(pieces).toHaveLength(Math.ceil((n - 1) / (maxLength - 1)));
  });

  test('a cut that leaves nothing to train leaves the row out, and says so', async () => {
    const rows = [chat(words, 'yes'), chat('a', 'b')];
    const data = await prepare({ rows, options: { maxLength: 16 } });
    expect(data.report).toMatchObject({ truncated: 1, withoutLabels: 1 });
    expect(data.count('train')).toBe(1);
    expect(data.report.warnings).toContain('1 rows are left out: nothing in them is trained');
  });
});

describe('what can not be trained is refused with an example', () => {
  test('no label at all', async () => {
    const messages = [
      { role: 'user', content: 'question' },
      { role: 'assistant', content: 'answer', weight: 0 },
    ];
    const error = await failure(prepare({ rows: [{ messages }] }));
    expect(error.code).toBe('ERR_LOWRANK_INVALID_DATA');
    expect(error.message).toMatch(
      /^no token of the data would be trained\ndata:1 reads.*\n<.*\nquestion<\|im_end\|>/,
    );
    expect(error.hint).toContain('weight above 0');
    const cut = await failure(
      prepare({ rows: [chat('question '.repeat(20), 'b')], options: { maxLength: 9 } }),
    );
    expect(cut.hint).toContain('--max-length');
  });

  test('no stop token', async () => {
    const model = writeTextModel({ tokenizerConfig: { eos_token: '<eos>' } });
    writeFileSync(
      path.join(model, 'chat_template.jinja'),
      "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}",
    );
    const error = await failure(prepare({ model, rows: [chat('question', 'answer')] }));
    expect(error.code).toBe('ERR_LOWRANK_INVALID_DATA');
    expect(error.message).toContain('no stop token (<eos>) would be trained');
    expect(error.message).toContain('user: question\nassistant:[[ answer]]\n');
    const allowed = {
      model,
      rows: [chat('question', 'answer')],
      options: { allowNoStopToken: true },
    };
    expect((await prepare(allowed)).report.withStopToken).toBe(0);
  });

  test('no rows', async () => {
    expect((await failure(prepare({ rows: [] }))).message).toBe('the data set has no rows');
  });

  test('a chat without a template', async () => {
    const error = await failure(
      prepare({ model: writeTextModel({ template: null }), rows: [chat('a', 'b')] }),
    );
    expect(error.message).toContain(
      'data:1: a chat needs a chat template, and the model folder has none',
    );
  });

  test('rows without any tokenizer', async () => {
    const dataset = await loadDataset([{ text: 'a' }]);
    const error = await failure(prepareDataset(dataset, { cacheDir: temporaryFolder() }));
    expect(error).toMatchObject({ where: 'data:1', message: 'a text row needs a tokenizer' });
  });

  test('options that do not exist', async () => {
    const error = await failure(prepare({ rows: [], options: { maxLenght: 3 } as never }));
    expect(error.code).toBe('ERR_LOWRANK_INVALID_ARGUMENT');
    expect(error.message).toContain('maxLenght');
  });
});

describe('bad rows', () => {
  test('all are named; they are allowed up to a number', async () => {
    const folder = temporaryFolder();
    const file = path.join(folder, 'a.jsonl');
    writeFileSync(file, `${JSON.stringify(chat('a', 'b'))}\n{"x": 1}\n{oops\n`);
    const options = { model: writeTextModel(), cacheDir: temporaryFolder(), split: ALL_TRAIN };
    const dataset = await loadDataset(file);
    for (const maxBadRows of [0, 1]) {
      const error = await failure(prepareDataset(dataset, { ...options, maxBadRows }));
      expect(error.code).toBe('ERR_LOWRANK_INVALID_DATA');
      expect(error.message).toMatch(/^2 of 3 rows can't be used:\n/);
      expect(error.message).toContain(`\n${file}:2: the keys "x" match no known row.`);
      expect(error.message).toContain(`\n${file}:3: not valid JSON:`);
      expect(error.hint).toContain('--max-bad-rows 2');
    }
    const data = await prepareDataset(dataset, { ...options, maxBadRows: 2 });
    onTestFinished(() => data.close());
    expect(data.report).toMatchObject({ rows: 3, badRowCount: 2, cache: { hit: true } });
    expect(data.report.badRows.map(({ line }) => line)).toEqual([2, 3]);
  });

  test('very many are listed in a file', async () => {
    const cacheDir = temporaryFolder();
    const rows = Array.from({ length: 70 }, (_, i) => ({ wrong: i }));
    const error = await failure(prepare({ rows, options: { cacheDir } }));
    expect(error.message).toMatch(/data:50: .*\n\.\.\. and 20 more, listed in /s);
    const list = readdirSync(cacheDir).find((name) => name.startsWith('bad-rows'))!;
    expect(readFileSync(path.join(cacheDir, list), 'utf8').trim().split('\n')).toHaveLength(70);
  });

  test('what a template refuses is a bad row', async () => {
    const model = writeTextModel({
      template: 'inst',
      tokenizerConfig: { bos_token: '<s>', eos_token: '</s>' },
    });
    const wrong = { messages: [{ role: 'assistant', content: 'b' }] };
    const error = await failure(prepare({ model, rows: [chat('a', 'b'), wrong] }));
    expect(error.message).toContain('1 of 2 rows');
    expect(error.message).toMatch(/data:2: .*must take turns/);
  });
});

describe('splits', () => {
  const options = { split: [0.8, 0.1, 0.1] as [number, number, number] };

  async function sides(
    rows: readonly unknown[],
    more: PrepareOptions = {},
  ): Promise<Map<string, SplitName>> {
    const data = await prepare({ rows, options: { ...options, ...more } });
    const found = new Map<string, SplitName>();
    for (const split of ['train', 'validation', 'test'] as const) {
      for (const { inputIds } of await collect(data, split)) found.set(inputIds.join(), split);
    }
    return found;
  }

  test('rows keep their side when rows are added, removed or reordered', async () => {
    const model = writeTextModel();
    const few = await sides(chats(100), { model });
    const many = await sides(chats(160).reverse(), { model });
    expect(few.size).toBe(100);
    for (const [row, side] of few) expect(many.get(row)).toBe(side);
    expect(new Set(few.values()).size).toBe(3);
    const other = await sides(chats(100), { model, splitSeed: 1 });
    expect([...few].some(([row, side]) => other.get(row) !== side)).toBe(true);
  });

  test('equal rows are on one side and counted', async () => {
    const data = await prepare({ rows: [...chats(40), ...chats(40)], options });
    expect(data.report.duplicates).toBe(40);
    for (const split of ['train', 'validation', 'test'] as const) {
      expect(data.count(split) % 2).toBe(0);
    }
    expect(data.report.warnings).toContain('40 rows are duplicates of others');
  });

  test('the shares are met within what chance allows', async () => {
    const rows = Array.from({ length: 2000 }, (_, i) => ({ input_ids: [1, i % 500, i >> 4, 5] }));
    const data = await prepare({ rows, options });
    // Four standard deviations of a binomial share: 4 * sqrt(2000 * 0.1 * 0.9) = 54.
    expect(Math.abs(data.count('validation') - 200)).toBeLessThan(54);
    expect(Math.abs(data.count('test') - 200)).toBeLessThan(54);
    const none = await prepare({ rows, options: { split: [0, 1, 0] } });
    expect([none.count('train'), none.count('validation'), none.count('test')]).toEqual([
      0, 2000, 0,
    ]);
  });

  test('files named after splits', async () => {
    const folder = temporaryFolder();
    writeLines(path.join(folder, 'train.jsonl'), chats(5));
    writeLines(path.join(folder, 'valid.jsonl'), chats(3));
    writeLines(path.join(folder, 'test.jsonl'), chats(2));
    const data = await prepareDataset(await loadDataset(folder), {
      model: writeTextModel(),
      cacheDir: temporaryFolder(),
    });
    onTestFinished(() => data.close());
    expect(data.report.splitBy).toBe('files');
    expect([data.count('train'), data.count('validation'), data.count('test')]).toEqual([5, 3, 2]);
    expect((await collect(data, 'validation'))[0]!.file).toBe('valid.jsonl');
  });

  test('parts without rows are named, and without any to train on it is refused', async () => {
    // Whichever side the one row is on: the other two are empty, or there is nothing to train on.
    const rows = chats(1);
    const data = await prepare({ rows, options: { ...options, requireTrainable: false } });
    expect(data.report.warnings.filter((text) => text.includes('part is empty'))).toHaveLength(2);
    const all: number[][] = [];
    for (let splitSeed = 0; splitSeed < 20; splitSeed++) {
      const outcome = await prepare({ rows, options: { ...options, splitSeed } }).then(
        (found) => [found.count('train')],
        (error: Error) => {
          expect(error.message).toMatch(/^no example is left to train on \(train 0, /);
          return [0];
        },
      );
      all.push(outcome);
    }
    expect(new Set(all.flat())).toEqual(new Set([0, 1]));
  });

  test('a leak is counted', async () => {
    const overlap = await countOverlap(
      await loadDataset(chats(10)),
      await loadDataset(chats(13).slice(8)),
    );
    expect(overlap).toBe(2);
  });
});
