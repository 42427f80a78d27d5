// Whole runs through the public trainer and the command line, on a tiny random model.
import { spawn, spawnSync } from 'node:child_process';
import { cp, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { Adapter, Model, Trainer, estimate, evaluate, loadDataset } from '../../lib/index.js';
import type { LowrankError, TrainEvent, TrainerOptions } from '../../lib/index.js';
import { loadBuild, writeTinyModel } from '../support/tiny_model.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const cli = path.join(root, 'dist/cli/main.js');

let folder: string;
let base: string;
let data: string;
const at = (...parts: string[]) => path.join(folder, ...parts);

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'lowrank-train-'));
  base = at('base');
  data = at('data.jsonl');
  await writeTinyModel(loadBuild(), base, { seed: 5 });
  const rows = Array.from({ length: 60 }, (_, i) => ({
    messages: [
      { role: 'user', content: `number ${i % 10}` },
      { role: 'assistant', content: `it is ${'abcdefghij'[i % 10]}${i % 3}` },
    ],
  }));
  await writeFile(data, rows.map((row) => JSON.stringify(row) + '\n').join(''));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

interface Metrics {
  step: number;
  loss?: number;
  grad_norm?: number;
  eval_loss?: number;
}
const metrics = async (run: string): Promise<Metrics[]> =>
  (await readFile(at(run, 'metrics.jsonl'), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Metrics);
// What must be the same bits in two runs; times differ.
const bits = async (run: string) =>
  (await metrics(run)).map(({ step, loss, grad_norm, eval_loss }) => [
    step,
    loss,
    grad_norm,
    eval_loss,
  ]);

async function train(
  output: string,
  options: Partial<TrainerOptions>,
  visit?: (event: TrainEvent) => void,
): Promise<TrainEvent[]> {
  const quantization = options.method?.type === 'qlora' ? 'nf4' : 'none';
  await using model = await Model.load(base, {
    quantization,
    trainable: options.method?.type === 'full',
  });
  const trainer = new Trainer({
    model,
    method: { type: 'lora', r: 4, alpha: 8 },
    train: await loadDataset(data),
    outputDir: at(output),
    learningRate: 5e-3,
    maxLength: 64,
    cacheDir: at('cache'),
    ...options,
  });
  const events: TrainEvent[] = [];
  for await (const event of trainer.run()) {
    events.push(event);
    visit?.(event);
  }
  return events;
}

const failure = (promise: Promise<unknown>): Promise<LowrankError> =>
  promise.then(
    () => expect.unreachable('it should have failed'),
    (error: LowrankError) => error,
  );

describe('a run', () => {
  test.each(['lora', 'qlora', 'full'] as const)('%s learns, and its result loads', async (type) => {
    const run = `learns-${type}`;
    const events = await train(run, { method: { type }, epochs: 4 });
    const losses = (await metrics(run)).flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
    expect(losses.at(-1)).toBeLessThan(losses[0]! * 0.8);
    const end = events.at(-1)!;
    expect(end).toMatchObject({ type: 'end', reason: 'completed' });
    const last = events.findLast((event) => event.type === 'eval')!;

    // The same loss again from what was written.
    await using model = await Model.load(
      type === 'full' ? at(run, 'model') : base,
      type === 'qlora' ? { quantization: 'nf4' } : {},
    );
    const adapter = type === 'full' ? undefined : await Adapter.load(model, at(run, 'adapter'));
    const again = await evaluate(model, await loadDataset(data), {
      adapter,
      split: 'validation',
      maxLength: 64,
      cacheDir: at('cache'),
    });
    expect(again.loss).toBeCloseTo(last.type === 'eval' ? last.loss : NaN, 6);
  });

  test('an adapter folder has a model card, and keeps one that people wrote', async () => {
    const events = await train('card', { maxSteps: 2 });
    const step = events.findLast((event) => event.type === 'end')!;
    expect(step).toMatchObject({ step: 2 });
    for (const place of ['adapter', 'checkpoints/step-2']) {
      const card = await readFile(at('card', place, 'README.md'), 'utf8');
      expect(card).toContain(`base_model: ${base}\nlibrary_name: peft\n`);
      expect(card).toMatch(/\d+ examples; 2 steps over \d+ tokens/);
    }
    await using model = await Model.load(base);
    await using adapter = await Adapter.load(model, at('card/adapter'));
    await adapter.save(at('saved'));
    expect(await readFile(at('saved/README.md'), 'utf8')).toContain('library_name: peft');
    await writeFile(at('saved/README.md'), 'my own words');
    await adapter.save(at('saved'));
    expect(await readFile(at('saved/README.md'), 'utf8')).toBe('my own words');
  });

  test('estimates a folder that bitsandbytes quantized, and names what it cannot do', async () => {
    const config = JSON.parse(await readFile(path.join(base, 'config.json'), 'utf8')) as object;
    const bnb = { load_in_4bit: true, bnb_4bit_quant_type: 'nf4', bnb_4bit_use_double_quant: true };
    const quantized = at('quantized.json');
    const write = (quantization_config: object): Promise<void> =>
      writeFile(quantized, JSON.stringify({ ...config, quantization_config }));
    const limits = { maxLength: 64, memoryBudget: 1e9 };
    await write({ ...bnb, quant_method: 'bitsandbytes' });
    const stored = await estimate({ model: quantized, method: 'lora', ...limits });
    expect(stored).toEqual(await estimate({ model: base, method: 'qlora', ...limits }));
    await expect(estimate({ model: quantized, method: 'full' })).rejects.toMatchObject({
      code: 'ERR_LOWRANK_INVALID_ARGUMENT',
      hint: expect.stringContaining('original weights') as string,
    });
    await write({ quant_method: 'gptq', bits: 4 });
    await expect(estimate({ model: quantized })).rejects.toMatchObject({
      code: 'ERR_LOWRANK_UNSUPPORTED',
      hint: expect.stringContaining('original weights') as string,
    });
  });

  test('accumulated micro-batches give the step of one batch', async () => {
    const options = { shuffle: false, maxSteps: 3 };
    await train('one-batch', { ...options, perDeviceTrainBatchSize: 8 });
    await train('accumulated', {
      ...options,
      perDeviceTrainBatchSize: 2,
      gradientAccumulationSteps: 4,
    });
    const [one, other] = [await metrics('one-batch'), await metrics('accumulated')];
    for (const i of [0, 1, 2]) expect(other[i]!.loss).toBeCloseTo(one[i]!.loss!, 5);
  });

  test('stops early, keeps the best checkpoint and ends with it', async () => {
    const events = await train('early', {
      learningRate: 0.5,
      maxGradNorm: 0,
      epochs: 50,
      evalSteps: 2,
      earlyStoppingPatience: 2,
      loadBestModelAtEnd: true,
      saveTotalLimit: 1,
    });
    const end = events.at(-1)!;
    expect(end).toMatchObject({ type: 'end', reason: 'early-stopping' });
    if (end.type !== 'end') return;
    const best = JSON.parse(await readFile(at('early/best.json'), 'utf8')) as {
      checkpoint: string;
    };
    expect(best).toMatchObject({ step: end.bestStep, eval_loss: end.bestLoss });
    const saved = await readFile(at('early/adapter/adapter_model.safetensors'));
    expect(
      saved.equals(await readFile(at('early', best.checkpoint, 'adapter_model.safetensors'))),
    ).toBe(true);
  });

  test('a signal stops it with a checkpoint, from which it goes on to the same bits', async () => {
    const options: Partial<TrainerOptions> = {
      method: { type: 'lora', r: 4, dropout: 0.1 },
      maxSteps: 14,
      evalSteps: 5,
      lrSchedulerType: 'cosine',
    };
    await train('uninterrupted', options);
    const controller = new AbortController();
    const events = await train('stopped', { ...options, signal: controller.signal }, (event) => {
      if (event.type === 'step' && event.step === 6) controller.abort();
    });
    expect(events.at(-1)).toMatchObject({ type: 'end', reason: 'aborted' });
    expect(await readdir(at('stopped/checkpoints'))).toContain('step-6');
    await train('stopped', { ...options, resumeFromCheckpoint: 'last' });
    expect(await bits('stopped')).toEqual(await bits('uninterrupted'));
  });

  test('a loss that is not finite is an error that says where the last good state is', async () => {
    const error = await failure(
      train('diverged', { learningRate: 1e30, maxGradNorm: 0, warmupSteps: 2, maxSteps: 20 }),
    );
    expect(error.code).toBe('ERR_LOWRANK_NOT_FINITE');
    expect(error.message).toMatch(/^step \d+: /);
    const kept = /is in (\S+);/.exec(error.hint ?? '')?.[1];
    expect(await readdir(kept!)).toContain('state.json');
  });

  test("refuses another run's checkpoint, a used folder, and unknown options", async () => {
    await train('first', { maxSteps: 2 });
    expect((await failure(train('first', { maxSteps: 2 }))).message).toMatch('already holds a run');
    const other = await failure(
      train('first', { maxSteps: 2, learningRate: 1, resumeFromCheckpoint: 'last' }),
    );
    expect(other.message).toMatch('learningRate was 0.005, is 1');
    const unknown = await failure(train('x', { learningrate: 1 } as Partial<TrainerOptions>));
    expect(unknown.code).toBe('ERR_LOWRANK_INVALID_ARGUMENT');
  });
});

describe('the command line', () => {
  const argv = (output: string) => [
    ...[cli, 'train', '--model', base, '--data', data, '--output', at(output), '--json'],
    ...['--cache-dir', at('cache'), '--max-length', '64', '--max-steps', '30', '--save-steps', '3'],
    ...[
      '--learning-rate',
      '5e-3',
      '--optim',
      'adamw_8bit',
      '--lora-dropout',
      '0.1',
      '--method',
      'qlora',
    ],
  ];
  const run = (args: string[]) => spawnSync(process.execPath, args, { encoding: 'utf8' });

  test('kill -9 at any moment, then resume: the same bits', async () => {
    expect(run(argv('whole')).status).toBe(0);
    const child = spawn(process.execPath, argv('killed'), { stdio: ['ignore', 'pipe', 'ignore'] });
    let seen = '';
    child.stdout.on('data', (text: Buffer) => {
      seen += text.toString();
      if (seen.includes('"step":7')) child.kill('SIGKILL');
    });
    await new Promise((resolve) => child.on('exit', resolve));
    expect(child.signalCode).toBe('SIGKILL');
    const resumed = run([...argv('killed'), '--resume-from-checkpoint', 'last']);
    expect(resumed.stdout).toContain('"resumedFrom"');
    expect(await bits('killed')).toEqual(await bits('whole'));
  });

  test('a wrong option is named, with a suggestion; a wrong value with its flag', () => {
    const misspelt = run([...argv('x'), '--lora-rr', '4']);
    expect(misspelt.status).toBe(2);
    expect(misspelt.stderr).toContain('--lora-r?');
    expect(run([...argv('x'), '--lora-r', '0']).stderr).toContain('--lora-r');
  });

  test('options from a file; flags win', async () => {
    await writeFile(
      at('config.yaml'),
      `model: ${base}\ndata: ${data}\noutput: ${at('from-file')}\nmax_steps: 5\nlora-r: 2\nmax-length: 64\ncache-dir: ${at('cache')}\n`,
    );
    expect(run([cli, 'train', '--config', at('config.yaml'), '--max-steps', '2']).status).toBe(0);
    const manifest = JSON.parse(await readFile(at('from-file/run.json'), 'utf8')) as {
      options: { method: { r: number }; maxSteps: number };
    };
    expect(manifest.options).toMatchObject({ maxSteps: 2, method: { r: 2 } });
    const schema = JSON.parse(run([cli, 'train', '--print-config-schema']).stdout) as {
      type: string;
    };
    expect(schema.type).toBe('object');
  });

  test('eval, generate, inspect, estimate, doctor', async () => {
    await cp(at('whole/adapter'), at('adapter'), { recursive: true });
    const evaluated = run([
      ...[cli, 'eval', '--model', base, '--adapter', at('adapter'), '--data', data],
      ...['--max-length', '64', '--json'],
    ]);
    expect((JSON.parse(evaluated.stdout) as { labelTokens: number }).labelTokens).toBeGreaterThan(
      60,
    );
    const generated = run([
      ...[cli, 'generate', '--model', base, '--prompt', 'number 1', '--max-new-tokens', '5'],
    ]);
    expect(generated.status).toBe(0);
    expect(run([cli, 'inspect', 'adapter', at('adapter')]).stdout).toContain('lora_A.weight');
    expect(run([cli, 'inspect', 'model', base]).stdout).toContain('model.embed_tokens.weight');
    expect(run([cli, 'inspect', 'data', data, '--model', base]).stdout).toContain('number 0');
    const plan = run([cli, 'estimate', '--model', base, '--max-length', '64', '--json']);
    expect(JSON.parse(plan.stdout)).toEqual(await estimate({ model: base, maxLength: 64 }));
    expect(run([cli, 'doctor']).stdout).toContain('engine');
  });
});
