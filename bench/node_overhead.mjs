// What a training step costs more from Node than from C++: the same steps through the addon and
// through the engine's facade, in turn.
//   npm run bench -- node_overhead [--shape smollm2-135m] [--batch 1] [--seq 256] [--rounds 21]
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { buildFolder, root } from '../scripts/checkout.mjs';
import { setUp } from '../scripts/setup.mjs';

setUp();
const { Peer, makeWork } = await import('./peers/work.mjs');
const { median } = await import('../dist/bench/statistics.js');

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'smollm2-135m' },
    dtype: { type: 'string', default: 'bf16' },
    batch: { type: 'string', default: '1' },
    seq: { type: 'string', default: '256' },
    rounds: { type: 'string', default: '21' },
    threads: { type: 'string', default: '0' },
  },
});

function buildPeer() {
  const run = (...args) => {
    const { status } = spawnSync('cmake', args, { stdio: ['ignore', 'ignore', 'inherit'] });
    if (status !== 0) throw new Error('the native side was not built');
  };
  run('-S', root, '-B', buildFolder, '-DLOWRANK_BENCH=ON');
  run('--build', buildFolder, '--target', 'train_peer');
  return path.join(buildFolder, 'bench', 'native', 'train_peer');
}

const scratch = mkdtempSync(path.join(os.tmpdir(), 'lowrank-overhead-'));
try {
  const { shape, dtype, batch, seq, threads } = values;
  const work = await makeWork(scratch, { shape, dtype, count: batch * seq * 4 });
  const numbers = { batch: Number(batch), seq: Number(seq), threads: Number(threads) };
  const options = { ...work, ...numbers, dtype, method: 'lora', learningRate: 1e-4 };
  const script = path.join(import.meta.dirname, 'peers', 'lowrank_peer.mjs');
  const { model, adapter, tokens } = work;
  const args = [model, adapter, tokens, batch, seq, dtype, '1e-4', threads];
  const sides = [
    new Peer('node', process.execPath, [script], { options }),
    new Peer('native', buildPeer(), args),
  ];
  for (const side of sides) {
    await side.ready;
    await side.ask('step');
  }
  const seconds = [[], []];
  const losses = [[], []];
  for (let round = 0; round < Number(values.rounds); round++)
    for (const i of round % 2 === 0 ? [0, 1] : [1, 0]) {
      const answer = await sides[i].ask('step');
      seconds[i].push(answer.seconds);
      losses[i].push(answer.loss);
    }
  for (const side of sides) await side.end();
  if (losses[0].some((loss, i) => loss !== losses[1][i]))
    throw new Error('the two sides computed losses of different bits');
  const [node, native] = seconds.map(median);
  const ratios = seconds[0].map((s, i) => s / seconds[1][i]);
  console.log(
    `node ${node.toFixed(4)} s a step, native ${native.toFixed(4)} s: ratio of medians ` +
      `${(node / native).toFixed(4)}, median of ratios ${median(ratios).toFixed(4)}`,
  );
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
