// What the sides of a comparison share: a model of random weights, a LoRA adapter and token ids in a
// scratch folder, and processes that answer one line for each line they are asked.
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';

import { shapeConfig } from '../../dist/bench/shapes.js';
import { loadAddon } from '../../dist/native/load_addon.js';
import { nativeLoraOptions, nativeModelOptions } from '../../dist/train/native_options.js';
import { commandSchema } from '../../dist/train/options.js';

/** Rank 16 on all linears; `count` token ids that follow a rule most of the time. */
export async function makeWork(folder, { shape, dtype, count }) {
  const model = path.join(folder, 'model');
  const adapter = path.join(folder, 'adapter');
  const command = { model: '-', data: '-', output: '-', loraR: 16, loraAlpha: 32, dtype };
  const options = commandSchema.parse(command);
  mkdirSync(model, { recursive: true });
  const fresh = await loadAddon().createModel(
    { device: 'cpu' },
    await shapeConfig(shape, dtype),
    nativeModelOptions(options),
    1,
  );
  await fresh.save(model, dtype);
  const lora = await fresh.createAdapter(nativeLoraOptions(options), 1);
  await lora.save(adapter, model);
  await lora.dispose();
  await fresh.dispose();

  const ids = new Int32Array(count);
  let state = 12345;
  const random = (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 4294967296) * below);
  };
  for (let i = 1; i < ids.length; i++)
    ids[i] = random(10) === 0 ? random(512) : (ids[i - 1] * 5 + 1) % 512;
  const tokens = path.join(folder, 'tokens');
  writeFileSync(tokens, Buffer.from(ids.buffer));
  return { model, adapter, tokens };
}

export class Peer {
  /** `options` is the first line that the process reads; without it, it only answers. */
  constructor(name, command, args, { options, environment = {} } = {}) {
    this.name = name;
    this.child = spawn(command, args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, HF_HUB_OFFLINE: '1', PYTHONWARNINGS: 'ignore', ...environment },
    });
    this.lines = createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
    this.ready = options ? this.ask(JSON.stringify(options)) : this.answer();
    this.ready.catch(() => {}); // whoever waits for it is told
  }
  async answer() {
    const { value, done } = await this.lines.next();
    if (done) throw new Error(`${this.name} ended without an answer`);
    return JSON.parse(value);
  }
  ask(line) {
    this.child.stdin.write(line + '\n');
    return this.answer();
  }
  async end() {
    this.child.stdin.end('end\n');
    await new Promise((resolve) => this.child.once('close', resolve));
  }
}
