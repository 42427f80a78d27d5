import { mkdtemp, readFile, readdir, rm, writeFile, mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test } from 'vitest';

import { readConfigFile, suggest } from '../../lib/cli/config_file.js';
import { addFlags, camel, kebab, parseOptions } from '../../lib/cli/flags.js';
import { thin, formatBytes, formatDuration } from '../../lib/cli/progress.js';
import { LowrankError } from '../../lib/errors.js';
import { removeTemporary, writeFileAtomic, writeFolderAtomic } from '../../lib/train/atomic.js';
import { StepReader, countSteps, type BatchSource } from '../../lib/train/batches.js';
import { checkFingerprint } from '../../lib/train/checkpoint.js';
import { EarlyStopping } from '../../lib/train/early_stopping.js';
import { hashFile } from '../../lib/train/manifest.js';
import {
  commandSchema,
  commandShape,
  parseSplitRatio,
  parseTargetModules,
  trainingShape,
} from '../../lib/train/options.js';
import { RunFolder } from '../../lib/train/run_folder.js';
import { Command } from 'commander';

let folder: string;
beforeEach(async () => void (folder = await mkdtemp(join(tmpdir(), 'lowrank-'))));
afterEach(() => rm(folder, { recursive: true, force: true }));

const code = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: LowrankError) =>
      `${error.code} ${error.where ?? ''} ${error.message} ${error.hint ?? ''}`,
  );

describe('atomic writes', () => {
  test('a folder is complete or absent', async () => {
    const path = join(folder, 'step-1');
    await expect(
      writeFolderAtomic(path, async (temporary) => {
        await writeFile(join(temporary, 'a'), 'x');
        throw new Error('disk full');
      }),
    ).rejects.toThrow('disk full');
    expect(await readdir(folder)).toEqual([]);
    await writeFolderAtomic(path, (temporary) => writeFile(join(temporary, 'a'), 'x'));
    expect(await readdir(folder)).toEqual(['step-1']);
  });

  test('what a killed process left is removed, and nothing else', async () => {
    for (const name of ['.step-2.tmp-0123456789ab', 'adapter.tmp-x7Yz09', 'a.json.tmp-123-AbCdEf'])
      await mkdir(join(folder, name));
    await writeFileAtomic(join(folder, 'run.json'), '{}');
    await removeTemporary(folder);
    expect(await readdir(folder)).toEqual(['run.json']);
  });
});

describe('run folder', () => {
  test('refuses to write over a run unless it continues it', async () => {
    const run = await RunFolder.open(folder, false);
    await mkdir(run.checkpointPath(5));
    expect(await code(RunFolder.open(folder, false))).toContain('already holds a run');
    await RunFolder.open(folder, true);
  });

  test('on resume the metrics after the checkpoint and a torn line go', async () => {
    await writeFile(
      join(folder, 'metrics.jsonl'),
      '{"step":1,"loss":2}\n{"step":2,"loss":1}\n{"step":3,"loss":0.5}\n{"step":4,"lo',
    );
    const run = await RunFolder.open(folder, true);
    await run.openMetrics(2);
    await run.appendMetrics({ step: 3, loss: 0.6 });
    await run.close();
    expect(await readFile(join(folder, 'metrics.jsonl'), 'utf8')).toBe(
      '{"step":1,"loss":2}\n{"step":2,"loss":1}\n{"step":3,"loss":0.6}\n',
    );
  });

  test('pruning keeps the newest and the best', async () => {
    const run = await RunFolder.open(folder, false);
    for (const step of [2, 4, 6, 10]) await mkdir(run.checkpointPath(step));
    await run.prune(2, 2);
    expect(await run.checkpointSteps()).toEqual([2, 6, 10]);
  });
});

describe('early stopping', () => {
  test('counts evaluations without improvement; NaN is never best', () => {
    const stopping = new EarlyStopping(2, 0.1);
    expect(stopping.record(1, 1)).toBe(true);
    expect(stopping.record(2, 0.95)).toBe(false);
    expect(stopping.shouldStop).toBe(false);
    expect(stopping.record(3, NaN)).toBe(false);
    expect(stopping.shouldStop).toBe(true);
    expect(stopping.state).toMatchObject({ bestLoss: 1, bestStep: 1 });
  });

  test('without patience it never stops', () => {
    const stopping = new EarlyStopping(undefined);
    stopping.record(1, 1);
    for (let i = 2; i < 20; i++) stopping.record(i, 2);
    expect(stopping.shouldStop).toBe(false);
  });
});

describe('options', () => {
  const parse = (argv: string[]) => {
    const command = addFlags(new Command(), { ...commandShape, ...trainingShape });
    command.exitOverride().parse(argv, { from: 'user' });
    const given = Object.fromEntries(
      Object.entries(command.opts()).filter(([, v]) => v !== undefined),
    );
    return parseOptions(commandSchema, given, (key) => `--${kebab(key)}`);
  };
  const required = ['--model', 'm', '--data', 'd', '--output', 'o'];

  test('flags reach the schema with their types; defaults come from the schema', () => {
    const options = parse([
      ...required,
      '--lora-r',
      '4',
      '--no-shuffle',
      '--packing',
      '--rank-pattern',
      '{"q_proj":8}',
      '--modules-to-save',
      'lm_head,embed_tokens',
      '--warmup-steps',
      '0.1',
    ]);
    expect(options).toMatchObject({
      loraR: 4,
      shuffle: false,
      packing: true,
      rankPattern: { q_proj: 8 },
      learningRate: 2e-4,
      modulesToSave: ['lm_head', 'embed_tokens'],
      warmupSteps: 0.1,
      doubleQuant: true,
    });
  });

  test('every problem is named with its flag', () => {
    expect(() => parse(['--model', 'm'])).toThrow('--data: is required\n--output: is required');
    expect(() => parse([...required, '--lora-r', '0'])).toThrow('--lora-r');
    expect(() => parse([...required, '--lora-r', 'x'])).toThrow("'x' is not a number");
    expect(() => parse([...required, '--split-ratio', '80-20'])).toThrow('train/validation/test');
  });

  test('target modules: list, all-linear, or one pattern', () => {
    expect(parseTargetModules('q_proj, v_proj')).toEqual({
      targetModules: ['q_proj', 'v_proj'],
      targetPattern: '',
    });
    expect(parseTargetModules('all-linear').targetModules).toEqual(['all-linear']);
    expect(parseTargetModules('.*\\.layers\\.[01]\\..*q_proj').targetPattern).toContain('layers');
    expect(parseTargetModules('self_attn.q_proj').targetModules).toEqual(['self_attn.q_proj']);
  });

  test('split ratio', () => {
    expect(parseSplitRatio('80/10/10')).toEqual([0.8, 0.1, 0.1]);
  });

  test('names in the three cases are one name', () => {
    expect(['lora-r', 'lora_r', 'loraR'].map(camel)).toEqual(['loraR', 'loraR', 'loraR']);
    expect(suggest('lerningRate', ['learningRate', 'loraR'])).toBe('learningRate');
    expect(suggest('zzz', ['learningRate'])).toBeUndefined();
  });
});

describe('config file', () => {
  const known = ['learningRate', 'loraR'];
  test('YAML and JSON; an unknown name has its place and a suggestion', async () => {
    const yaml = join(folder, 'a.yaml');
    await writeFile(yaml, 'learning-rate: 1e-3\nlora_r: 4\n');
    const read = await readConfigFile(yaml, known);
    expect(read.values).toEqual({ learningRate: 1e-3, loraR: 4 });
    expect(read.place('loraR')).toBe(`${yaml}:2:1`);
    await writeFile(yaml, 'lora_r: 4\nlerning_rate: 1\n');
    expect(await code(readConfigFile(yaml, known))).toContain(
      `${yaml}:2:1 unknown option 'lerning_rate' did you mean 'learning-rate'?`,
    );
    const json = join(folder, 'a.json');
    await writeFile(json, '{"learningRate": 0.5}');
    expect((await readConfigFile(json, known)).values).toEqual({ learningRate: 0.5 });
    await writeFile(json, '{"learningRate": ');
    expect(await code(readConfigFile(json, known))).toContain('ERR_LOWRANK_INVALID_FILE');
  });
});

test('steps go on from any position, epoch after epoch, and epochs may differ in length', async () => {
  const source = {
    epoch: async (epoch: number) => ({
      length: epoch === 1 ? 2 : 3,
      batch: async (i: number) => `${epoch}.${i}`,
    }),
  } as unknown as BatchSource;
  const reader = new StepReader(source, 2, { epoch: 0, batch: 2 });
  const seen = [];
  for (let i = 0; i < 4; i++) seen.push(await reader.next());
  expect(seen).toEqual([['0.2'], ['1.0', '1.1'], ['2.0', '2.1'], ['2.2']]);
  expect(reader.epochs).toBe(3);
  expect(await countSteps(source, 2, 2)).toBe(3);
  expect(await countSteps(source, 1, 1.5)).toBe(4);
});

test('a checkpoint of other settings is refused, naming them', () => {
  const state = { fingerprint: { seed: 1, learningRate: 0.1 } } as unknown as Parameters<
    typeof checkFingerprint
  >[0];
  expect(() => checkFingerprint(state, { seed: 2, learningRate: 0.1 }, 'x')).toThrow(
    'seed was 1, is 2',
  );
});

test('hashes are of the content', async () => {
  const path = join(folder, 'f');
  await writeFile(path, 'abc');
  expect(await hashFile(path)).toBe(
    'sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
  );
});

test('figures for people', () => {
  expect(formatBytes(1_234_567)).toBe('1.23 MB');
  expect(formatDuration(3725)).toBe('1h02m');
  expect(thin([1, 1, 3, 3], 2)).toEqual([1, 3]);
});
