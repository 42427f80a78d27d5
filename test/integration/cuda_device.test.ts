// The device "cuda" through the command line and the API. The plug-in is the modelled one (test/cuda):
// the CUDA kernels' own source, run on the CPU, its memory out of the host's reach.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, expect, test } from 'vitest';

import { loadBuild, writeTinyModel } from '../support/tiny_model.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const cli = path.join(root, 'dist/cli/main.js');
const pluginFolder = path.join(root, 'build/cuda_model');

let folder: string;
let base: string;
let data: string;
const at = (...parts: string[]) => path.join(folder, ...parts);

beforeAll(async () => {
  if (!existsSync(path.join(pluginFolder, 'liblowrank_cuda.so')))
    throw new Error('the modelled plug-in is missing: npm run build:native');
  folder = await mkdtemp(path.join(os.tmpdir(), 'lowrank-cuda-'));
  base = at('base');
  data = at('data.jsonl');
  await writeTinyModel(loadBuild(), base, { seed: 5, config: { num_hidden_layers: 1 } });
  const rows = Array.from({ length: 20 }, (_, i) => ({
    messages: [
      { role: 'user', content: `n ${i % 10}` },
      { role: 'assistant', content: 'abcdefghij'[i % 10] },
    ],
  }));
  await writeFile(data, rows.map((row) => JSON.stringify(row) + '\n').join(''));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

interface Run {
  status: number | null;
  stdout: string;
  stderr: string;
}
function run(args: string[], env: NodeJS.ProcessEnv = {}): Run {
  return spawnSync(process.execPath, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, LOWRANK_PLUGIN_PATH: pluginFolder, ...env },
  });
}
function lowrank(args: string[], env: NodeJS.ProcessEnv = {}): string {
  const { status, stdout, stderr } = run([cli, ...args], env);
  if (status !== 0) throw new Error(`lowrank ${args[0]} failed (${status})\n${stderr}`);
  return stdout;
}
const train = (output: string, device: string, ...more: string[]) =>
  lowrank([
    ...['train', '--model', base, '--data', data, '--output', at(output), '--device', device],
    ...['--dtype', 'f32', '--lora-r', '2', '--max-length', '32', '--per-device-train-batch-size'],
    ...['2', '--gradient-accumulation-steps', '2', '--max-steps', '4', '--save-steps', '2'],
    ...['--cache-dir', at('cache'), '--learning-rate', '0.01', '--json', ...more],
  ]);
const steps = async (output: string) =>
  (await readFile(at(output, 'metrics.jsonl'), 'utf8'))
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { step: number; loss?: number; grad_norm?: number })
    .filter(({ loss }) => loss !== undefined);

test('train, resume, evaluate, generate and merge give what the CPU gives', async () => {
  train('cpu', 'cpu');
  train('cuda', 'cuda');
  const expected = await steps('cpu');
  const actual = await steps('cuda');
  expect(actual.length).toBe(4);
  // f32 sums of at most 259 products in another order, four updates long.
  for (const [i, { loss, grad_norm }] of actual.entries()) {
    expect(Math.abs(loss! / expected[i]!.loss! - 1)).toBeLessThan(1e-4);
    expect(Math.abs(grad_norm! / expected[i]!.grad_norm! - 1)).toBeLessThan(1e-3);
  }

  const resumed = ['--resume-from-checkpoint', at('cuda', 'checkpoints', 'step-2')];
  train('resumed', 'cuda', ...resumed);
  const bits = (all: typeof actual) => all.slice(-2).map((m) => [m.step, m.loss, m.grad_norm]);
  expect(bits(await steps('resumed'))).toEqual(bits(actual));

  const adapter = at('cuda', 'adapter');
  const evaluate = (device: string) =>
    JSON.parse(
      lowrank([
        ...['eval', '--model', base, '--adapter', adapter, '--data', data, '--json'],
        ...['--dtype', 'f32', '--max-length', '32', '--device', device, '--split', 'train'],
      ]),
    ) as { loss: number };
  expect(evaluate('cuda').loss).toBeCloseTo(evaluate('cpu').loss, 4);

  const generate = (device: string) =>
    lowrank([
      ...['generate', '--model', base, '--adapter', adapter, '--prompt', 'n 1', '--dtype', 'f32'],
      ...['--max-new-tokens', '4', '--temperature', '0', '--device', device],
    ]);
  expect(generate('cuda')).toBe(generate('cpu'));

  const merge = ['merge', '--model', base, '--adapter', adapter, '--json', '--output'];
  const report = JSON.parse(lowrank([...merge, at('merged'), '--device', 'cuda'])) as {
    maxLogitDifference: number;
  };
  expect(report.maxLogitDifference).toBeLessThan(1e-4);
  lowrank([...merge, at('merged-cpu'), '--device', 'cpu']);
  const weights = (name: string) => readFile(at(name, 'model.safetensors'));
  expect((await weights('merged')).equals(await weights('merged-cpu'))).toBe(true);
});

test('QLoRA and full fine-tuning', async () => {
  for (const method of ['qlora', 'full']) {
    train(method, 'cuda', '--method', method, '--optim', 'adamw_8bit');
    train(`${method}-cpu`, 'cpu', '--method', method, '--optim', 'adamw_8bit');
    const [actual, expected] = [await steps(method), await steps(`${method}-cpu`)];
    expect(Math.abs(actual[0]!.loss! / expected[0]!.loss! - 1)).toBeLessThan(1e-4);
    expect(actual.at(-1)!.loss!).toBeCloseTo(expected.at(-1)!.loss!, 2);
  }
});

interface Finding {
  name: string;
  ok: boolean;
  text: string;
}
const findings = (env: NodeJS.ProcessEnv = {}) =>
  JSON.parse(lowrank(['doctor', '--json'], env)) as Finding[];
const doctor = (env: NodeJS.ProcessEnv = {}) =>
  findings(env).filter(({ name }) => name.startsWith('cuda'));

test('doctor describes each GPU, or says what is missing', () => {
  expect(doctor()).toMatchObject([{ name: 'cuda:0', ok: true }]);
  expect(doctor()[0]!.text).toContain('free');
  const missing = doctor({ LOWRANK_PLUGIN_PATH: undefined });
  expect(missing).toMatchObject([{ name: 'cuda', ok: false }]);
  expect(missing[0]!.text).toMatch(/npm install @lowrank\/linux-x64-cuda|Linux on x64 only/);
});

test('doctor names cuBLASLt, or says in one sentence why it is not used', () => {
  // What the modelled plug-in takes for the variable LOWRANK_CUBLASLT of the real one.
  const cublaslt = (path?: string) => {
    const found = findings({ LOWRANK_CUDA_MODEL_CUBLASLT: path });
    const sentence = found.find(({ name }) => name === 'cublaslt');
    return { gpu: found.find(({ name }) => name === 'cuda:0')!, sentence };
  };
  const without = cublaslt();
  expect(without.gpu.text).not.toContain('cuBLASLt');
  expect(without.sentence).toMatchObject({ ok: false });
  expect(without.sentence!.text).toMatch(/^cuBLASLt isn't found.*pip install nvidia-cublas/);
  expect(cublaslt('off').sentence!.text).toContain('turns cuBLASLt off');
  const found = cublaslt(path.join(pluginFolder, 'libcublaslt_stub.so'));
  expect(found.gpu.text).toContain('cuBLASLt 13.1.1');
  expect(found.sentence).toBeUndefined();
});

test.runIf(process.platform === 'linux' && process.arch === 'x64')(
  'the plug-in is found in its npm package',
  async () => {
    const place = at('node_modules', '@lowrank', 'linux-x64-cuda');
    await cp(pluginFolder, path.join(place, 'lib'), { recursive: true });
    await cp(path.join(root, 'npm/linux-x64-cuda/package.json'), path.join(place, 'package.json'));
    const packaged = { LOWRANK_PLUGIN_PATH: undefined, NODE_PATH: at('node_modules') };
    expect(doctor(packaged)).toMatchObject([{ name: 'cuda:0', ok: true }]);
  },
);

test('a device that is not there is one error with its place and a hint', () => {
  const generate = (device: string, env = {}) =>
    run([cli, 'generate', '--model', base, '--prompt', 'n', '--device', device], env);
  for (const [device, text] of [
    ['cuda:7', 'there is no GPU 7'],
    ['tpu', "there is no device called 'tpu'"],
  ] as const) {
    const { status, stderr } = generate(device);
    expect(status).not.toBe(0);
    expect(stderr).toContain(text);
    expect(stderr).toContain('use cpu, cuda, cuda:N or auto');
  }
  const nowhere = { LOWRANK_PLUGIN_PATH: at('nowhere') };
  expect(generate('cuda', nowhere).stderr).toContain('no cuda device');
  expect(generate('auto', nowhere).status).toBe(0);
});

test('kernels, benches and descriptions take the device', () => {
  const program = `
    import * as kernels from './dist/kernels.js';
    const x = Float32Array.from([3, 4]);
    const { result } = await kernels.squaredNorm({ x }, { device: 'cuda' });
    console.log(result);`;
  expect(run(['--input-type=module', '-e', program]).stdout.trim()).toBe('25');
  const config = path.join(base, 'config.json');
  const bench = ['bench', 'train', '--shape', config, '--seq', '8', '--steps', '1', '--json'];
  const { row, profile } = JSON.parse(
    lowrank([...bench, '--profile', '--dtype', 'f32', '--device', 'cuda']),
  ) as { row: { isa: string }; profile: { op: string; flops: number }[] };
  expect(row.isa).toBe('cuda');
  expect(profile.find(({ op }) => op === 'attention_forward')!.flops).toBeGreaterThan(0);
});
