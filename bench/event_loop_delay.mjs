// Does the engine block the event loop? Compares the loop's delay in an idle process with that in a
// process that trains, on the same machine: `node bench/event_loop_delay.mjs [seconds]`.
// Target: the 99th percentile while training is at most 5 ms above the idle one.
import { execFileSync } from 'node:child_process';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import {
  loadBuild,
  loraOptions,
  microBatch,
  modelOptions,
  sessionOptions,
  tinyConfig,
} from '../test/support/tiny_model.mjs';

const mode = process.argv[3];
const seconds = Number(process.argv[2] ?? 10);

// Large enough that a micro-batch takes much longer than the target.
const config = {
  ...tinyConfig,
  hidden_size: 512,
  intermediate_size: 1536,
  num_hidden_layers: 8,
  num_attention_heads: 8,
  num_key_value_heads: 4,
  max_position_embeddings: 1024,
};

async function train(until) {
  const addon = loadBuild();
  const text = JSON.stringify(config);
  const model = await addon.createModel({ device: 'cpu' }, text, modelOptions, 1);
  const adapter = await model.createAdapter(loraOptions, 1);
  const session = await model.createSession(adapter, { ...sessionOptions, maxTokens: 512 });
  const batches = Array.from({ length: 4 }, () => microBatch(512));
  let steps = 0;
  let longest = 0;
  while (Date.now() < until) {
    const result = await session.step(batches, { learningRate: 1e-4, step: ++steps });
    longest = Math.max(longest, result.seconds);
  }
  await model.dispose();
  return { steps, longestStepSeconds: longest };
}

async function measure() {
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  const until = Date.now() + seconds * 1000;
  const work = mode === 'training' ? await train(until) : await sleep(seconds * 1000, {});
  histogram.disable();
  const milliseconds = (nanoseconds) => Number((nanoseconds / 1e6).toFixed(2));
  const { max } = histogram;
  const [p50, p99] = [50, 99].map((p) => milliseconds(histogram.percentile(p)));
  return { p50, p99, max: milliseconds(max), ...work };
}

if (mode) {
  console.log(JSON.stringify(await measure()));
} else {
  const self = fileURLToPath(import.meta.url);
  const run = (name) =>
    JSON.parse(execFileSync(process.execPath, [self, String(seconds), name], { encoding: 'utf8' }));
  const idle = run('idle');
  const training = run('training');
  console.log('event-loop delay in ms, idle:    ', idle);
  console.log('event-loop delay in ms, training:', training);
  console.log(`99th percentile: ${(training.p99 - idle.p99).toFixed(2)} ms above idle (target: 5)`);
}
