// Loss curves of LoRA, QLoRA and full fine-tuning on a device, beside the CPU's and those of torch +
// PEFT on the same device, over one small model, the same adapter and the same tokens.
//   node scripts/gpu/curves.mjs [--device cuda] [--steps 200] [--python python3] [--peft-device cuda]
// f32 must stay within 1e-4 of the CPU's losses. bf16 may be three times as far from PEFT's f32 as
// PEFT's own bf16 is, plus 0.01: both round at every operation, in different places.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { Peer, makeWork } from '../../bench/peers/work.mjs';
import { root } from '../checkout.mjs';

const { values } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    'peft-device': { type: 'string', default: 'cuda' },
    steps: { type: 'string', default: '200' },
    python: { type: 'string', default: 'python3' },
  },
});
const steps = Number(values.steps);
const [batch, seq] = [4, 96];
const config = {
  model_type: 'qwen3',
  ...{ vocab_size: 512, hidden_size: 192, intermediate_size: 416, num_hidden_layers: 3 },
  ...{ num_attention_heads: 6, num_key_value_heads: 2, head_dim: 32 },
  ...{ max_position_embeddings: 256, rms_norm_eps: 1e-6, rope_theta: 10000 },
  ...{ hidden_act: 'silu', tie_word_embeddings: true, initializer_range: 0.02 },
};
const peers = path.join(root, 'bench', 'peers');
const sides = {
  lowrank: [process.execPath, path.join(peers, 'lowrank_peer.mjs')],
  peft: [values.python, path.join(peers, 'peft_peer.py')],
};

async function curve(name, options) {
  const [command, script] = sides[name];
  const side = new Peer(name, command, [script], { options: { threads: 0, ...options } });
  await side.ready;
  const losses = [];
  for (let step = 0; step < steps; step++) losses.push((await side.ask('step')).loss);
  await side.end();
  return losses;
}

const furthest = (a, b) => Math.max(...a.map((loss, i) => Math.abs(loss - b[i])));

const folder = mkdtempSync(path.join(os.tmpdir(), 'lowrank-curves-'));
let [passed, failed] = [0, 0];
function judge(what, off, limit) {
  const good = off <= limit; // false for NaN
  if (good) passed++;
  else failed++;
  console.log(
    `${good ? 'ok  ' : 'FAIL'} ${what}: ${off.toExponential(2)}, limit ${limit.toExponential(2)}`,
  );
}

try {
  const shape = path.join(folder, 'shape.json');
  writeFileSync(shape, JSON.stringify(config));
  const work = await makeWork(folder, { shape, dtype: 'f32', count: batch * seq * 16 });
  for (const method of ['lora', 'qlora', 'full']) {
    const learningRate = method === 'full' ? 3e-4 : 2e-3;
    const common = { ...work, batch, seq, method, learningRate, quantize: true };
    const on = (device, dtype) => ({ ...common, device, dtype });
    const cpu = await curve('lowrank', on('cpu', 'f32'));
    const device = await curve('lowrank', on(values.device, 'f32'));
    const again = await curve('lowrank', on(values.device, 'f32'));
    const narrow = await curve('lowrank', on(values.device, 'bf16'));
    const peft = await curve('peft', on(values['peft-device'], 'f32'));
    const peftNarrow = await curve('peft', on(values['peft-device'], 'bf16'));
    console.log(`${method}: ${cpu[0].toFixed(4)} -> ${cpu.at(-1).toFixed(4)} in ${steps} steps`);
    judge(`${method} learns (last loss of the first)`, device.at(-1) / device[0], 0.9);
    judge(`${method} f32, ${values.device} and cpu`, furthest(device, cpu), 1e-4);
    judge(`${method} f32, ${values.device} and PEFT`, furthest(device, peft), 1e-4);
    judge(`${method} f32, ${values.device} twice`, furthest(device, again), 0);
    const own = furthest(peftNarrow, peft);
    judge(
      `${method} bf16, ${values.device} and PEFT's f32`,
      furthest(narrow, peft),
      3 * own + 0.01,
    );
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
