// The command line's training runs against PEFT's: the losses and gradient norms of 20 steps from the
// same adapter, tokens and order (test/golden/curves.py).
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { afterAll, beforeAll, expect, test } from 'vitest';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
const cli = path.join(root, 'dist/cli/main.js');
const model = path.join(root, 'test/golden/models/llama');
const STEPS = 20;
const DOCUMENTS = [19, 17]; // tokens of the documents of each row

/** One-dimensional view of a tensor of a safetensors file: a JSON header, then the values. */
async function readTensors(file: string) {
  const bytes = await readFile(file);
  const data = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, data)) as Record<
    string,
    { dtype: string; data_offsets: [number, number] }
  >;
  return (name: string): number[] => {
    const { dtype, data_offsets } = header[name]!;
    const part = new Uint8Array(bytes.subarray(data + data_offsets[0], data + data_offsets[1]));
    const values = dtype === 'F32' ? new Float32Array(part.buffer) : new Int32Array(part.buffer);
    return Array.from(values);
  };
}

let folder: string;
let golden: Awaited<ReturnType<typeof readTensors>>;

beforeAll(async () => {
  folder = await mkdtemp(path.join(os.tmpdir(), 'lowrank-golden-'));
  golden = await readTensors(path.join(model, 'curves.safetensors'));
  const [ids, labels] = [golden('ids'), golden('labels')];
  const lines: string[] = [];
  for (let at = 0, i = 0; at < ids.length; at += DOCUMENTS[i % 2]!, i++) {
    const end = at + DOCUMENTS[i % 2]!;
    lines.push(JSON.stringify({ input_ids: ids.slice(at, end), labels: labels.slice(at, end) }));
  }
  await writeFile(path.join(folder, 'rows.jsonl'), lines.join('\n') + '\n');
});
afterAll(() => rm(folder, { recursive: true, force: true }));

// Every sum of n f32 terms may be off by n roundings (2^-24 of its terms' size each); roundings of
// different steps are independent and add up from step to step. As in train/golden_curves_test.cc.
async function oneStep(): Promise<number> {
  const c = JSON.parse(await readFile(path.join(model, 'config.json'), 'utf8')) as Record<
    string,
    number
  >;
  const attention = 2 * c.head_dim! + 2 * c.num_attention_heads! * c.head_dim! + 2 * 19;
  const block = 4 * c.hidden_size! + 2 * c.intermediate_size! + attention;
  const terms = 2 * (c.num_hidden_layers! * block + c.hidden_size! + c.vocab_size!);
  return Math.sqrt(terms) * 2 ** -24;
}

test.each([
  ['lora', ['--method', 'lora', '--init-adapter', path.join(model, 'adapter')]],
  [
    'qlora',
    ['--method', 'qlora', '--no-double-quant', '--init-adapter', path.join(model, 'adapter')],
  ],
  [
    'qlora_double',
    ['--method', 'qlora', '--double-quant', '--init-adapter', path.join(model, 'adapter')],
  ],
  ['full', ['--method', 'full']],
])('%s', async (name, method) => {
  const output = path.join(folder, name);
  const files = ['--model', model, '--data', path.join(folder, 'rows.jsonl'), '--output', output];
  const batches = ['--no-shuffle', '--split-ratio', '100/0/0', '--allow-no-stop-token'];
  const sizes = ['--per-device-train-batch-size', '2', '--gradient-accumulation-steps', '2'];
  const rates = ['--learning-rate', '5e-3', '--lr-scheduler-type', 'constant'];
  const decay = ['--weight-decay', '0.1', '--max-grad-norm', '1', '--warmup-steps', '0'];
  const length = ['--max-steps', String(STEPS), '--max-length', '64', '--dtype', 'f32'];
  await promisify(execFile)(process.execPath, [
    ...[cli, 'train', '--json', ...files, ...method],
    ...[...batches, ...sizes, ...rates, ...decay, ...length],
  ]);
  const lines = (await readFile(path.join(output, 'metrics.jsonl'), 'utf8')).trim().split('\n');
  const steps = lines
    .map((line) => JSON.parse(line) as { loss?: number; grad_norm?: number })
    .filter((line) => line.loss !== undefined);
  expect(steps).toHaveLength(STEPS);
  const [losses, norms] = [golden(`${name}.loss`), golden(`${name}.grad_norm`)];
  const bound = await oneStep();
  steps.forEach(({ loss, grad_norm: norm }, i) => {
    const within = (i + 1) * bound;
    expect(Math.abs(loss! / losses[i]! - 1), `loss of step ${i + 1}`).toBeLessThan(within);
    expect(Math.abs(norm! / norms[i]! - 1), `norm of step ${i + 1}`).toBeLessThan(within);
  });
});
