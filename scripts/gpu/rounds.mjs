// Loads a model, makes an adapter and a session, and gives all of it back, over and over: the
// device's free memory must be what it was.
//   node scripts/gpu/rounds.mjs [--device cuda] [--rounds 1000]
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { makeWork } from '../../bench/peers/work.mjs';
import { loadAddon } from '../../dist/native/load_addon.js';
import { nativeModelOptions, nativeSessionOptions } from '../../dist/train/native_options.js';
import { trainingSchema } from '../../dist/train/options.js';

const { values } = parseArgs({
  options: {
    device: { type: 'string', default: 'cuda' },
    rounds: { type: 'string', default: '1000' },
  },
});
const rounds = Number(values.rounds);
const addon = loadAddon();
const device = { device: values.device };
// The first rounds load kernels and grow pools.
const WARM = Math.min(20, Math.floor(rounds / 2));

const config = {
  model_type: 'llama',
  ...{ vocab_size: 512, hidden_size: 128, intermediate_size: 256, num_hidden_layers: 2 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 128 },
  ...{ rms_norm_eps: 1e-6, hidden_act: 'silu', tie_word_embeddings: false },
  ...{ initializer_range: 0.02 },
};
const folder = mkdtempSync(path.join(os.tmpdir(), 'lowrank-rounds-'));
try {
  const shape = path.join(folder, 'shape.json');
  writeFileSync(shape, JSON.stringify(config));
  const work = await makeWork(folder, { shape, dtype: 'bf16', count: 64 });
  const options = { dtype: 'bf16', method: 'qlora', doubleQuant: true };
  let before = 0;
  for (let round = 0; round < rounds; round++) {
    if (round === WARM) before = addon.describeDevice(device).freeBytes;
    const model = await addon.loadModel(device, work.model, {
      ...nativeModelOptions(options),
      maxLength: 64,
    });
    const adapter = await model.loadAdapter(work.adapter);
    const session = await model.createSession(
      adapter,
      nativeSessionOptions(trainingSchema.parse({}), { maxTokens: 64 }),
    );
    for (const each of [session, adapter, model]) await each.dispose();
  }
  const lost = before - addon.describeDevice(device).freeBytes;
  // A driver gives memory out in pages of 2 MiB.
  const good = before > 0 && lost <= 2 << 20;
  console.log(`${rounds} rounds: ${lost} bytes of device memory lost`);
  console.log(good ? '1 passed, 0 failed' : '0 passed, 1 failed');
  process.exitCode = good ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
