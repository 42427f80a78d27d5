// Seconds from `lowrank train` to its first step, the model's files in the disk cache.
//   npm run bench -- start [--shape qwen3-0.6b] [--method lora] [--seq 512] [--rounds 5]
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

import { root } from '../scripts/checkout.mjs';
import { setUp } from '../scripts/setup.mjs';

setUp();
const { makeWork } = await import('./peers/work.mjs');
const { median } = await import('../dist/bench/statistics.js');

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'qwen3-0.6b' },
    method: { type: 'string', default: 'lora' },
    dtype: { type: 'string', default: 'bf16' },
    seq: { type: 'string', default: '512' },
    rounds: { type: 'string', default: '5' },
  },
});
const { shape, method, dtype, seq } = values;
const scratch = mkdtempSync(path.join(os.tmpdir(), 'lowrank-start-'));
const at = (name) => path.join(scratch, name);

/** When the first step began, in seconds after the process was started. */
async function firstStep(model) {
  rmSync(at('run'), { recursive: true, force: true });
  const began = performance.now();
  const files = ['--model', model, '--data', at('rows.jsonl'), '--output', at('run')];
  const run = ['--method', method, '--dtype', dtype, '--max-length', seq, '--max-steps', '1'];
  const data = ['--split-ratio', '100/0/0', '--allow-no-stop-token'];
  const main = path.join(root, 'dist', 'cli', 'main.js');
  const child = spawn(process.execPath, [main, 'train', '--json', ...files, ...run, ...data], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const line of createInterface({ input: child.stdout })) {
    const event = JSON.parse(line);
    if (event.type !== 'step') continue;
    const seconds = (performance.now() - began) / 1000 - event.seconds;
    child.kill('SIGKILL');
    await new Promise((resolve) => child.once('close', resolve));
    return seconds;
  }
  throw new Error('the run made no step');
}

try {
  const { model } = await makeWork(scratch, { shape, dtype, count: Number(seq) });
  const ids = Array.from({ length: Number(seq) }, (_, i) => 5 + ((i * 7919) % 30000));
  const line = JSON.stringify({ input_ids: ids, labels: ids });
  writeFileSync(at('rows.jsonl'), `${line}\n`.repeat(8));
  await firstStep(model); // brings the files into the cache
  const seconds = [];
  for (let i = 0; i < Number(values.rounds); i++) seconds.push(await firstStep(model));
  const [least, most] = [Math.min(...seconds), Math.max(...seconds)];
  console.log(
    `${shape} ${method} ${dtype}: ${median(seconds).toFixed(2)} s to the first step ` +
      `(${least.toFixed(2)} to ${most.toFixed(2)})`,
  );
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
