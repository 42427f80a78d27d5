// Teaches the small base model of this repository to open support tickets, and shows what changed:
//
//   npm run demo [-- --device cpu|cuda]
//
// Everything goes through the public interface; the same works with any Llama-family folder.

import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { createReporter, formatDuration } from '../dist/cli/progress.js';
import { Model, Trainer, describeError, evaluate, loadDataset } from '../dist/index.js';
import { scoreAnswers } from './support/score.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const MODEL = path.join(here, 'base-model');
const CHATS = path.join(here, 'support', 'chats.jsonl');
const OUTPUT = path.join(process.cwd(), 'runs', 'demo');
// The first chats of the file are never trained on. The settings below were chosen on others, so the
// score is of chats that had no part in anything.
const HELD_OUT = 40;
const STEPS = 390;

const started = performance.now();
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const indent = (text) => text.replace(/^/gm, '    ');

/** Loss and score on the held-out chats, and the answers. */
async function examine(model, heldOut, adapter) {
  const { loss } = await evaluate(model, await loadDataset(heldOut, { name: 'held-out chats' }), {
    adapter,
    maxLength: 512,
    cacheDir: path.join(OUTPUT, 'cache'),
  });
  const pairs = [];
  for (const { messages } of heldOut) {
    const prompt = messages.slice(0, -1);
    const answer = await model.generate(prompt, { adapter, maxNewTokens: 64 }).text();
    pairs.push([messages.at(-1).content, answer]);
  }
  return { loss, answers: pairs.map(([, answer]) => answer), ...scoreAnswers(pairs) };
}

async function train(model, chats, heldOut) {
  const trainer = new Trainer({
    model,
    method: { type: 'lora', r: 16, alpha: 32, targetModules: 'all-linear' },
    train: await loadDataset(chats, { name: 'training chats' }),
    validation: await loadDataset(heldOut, { name: 'held-out chats' }),
    outputDir: OUTPUT,
    maxSteps: STEPS,
    perDeviceTrainBatchSize: 8,
    maxLength: 512,
    learningRate: 5e-3,
    lrSchedulerType: 'cosine',
    warmupSteps: 10,
    evalSteps: STEPS / 3,
    saveSteps: STEPS,
    loggingSteps: process.stderr.isTTY ? 1 : 10,
  });
  const reporter = createReporter(false);
  let saved = '';
  for await (const event of trainer.run()) {
    reporter.event(event);
    if (event.type === 'end') saved = event.outputPath;
  }
  reporter.close();
  return { adapter: trainer.adapter, saved };
}

async function main() {
  const rows = readFileSync(CHATS, 'utf8').trim().split('\n').map(JSON.parse);
  const heldOut = rows.slice(0, HELD_OUT);
  const chats = rows.slice(HELD_OUT);
  rmSync(OUTPUT, { recursive: true, force: true });

  const { values } = parseArgs({ options: { device: { type: 'string' } } });
  const model = await Model.load(MODEL, { ...values });
  const { parameters, layers, isa, device } = model.info;
  console.log(
    `Base model: ${parameters.toLocaleString('en')} parameters, ${layers} layers, on ${device} (${isa})\n` +
      `Data: ${chats.length} chats to train on, ${heldOut.length} held out\n\n` +
      'Asking the base model about the held-out chats ...',
  );
  const before = await examine(model, heldOut);
  console.log('LoRA fine-tuning ...');
  const { adapter, saved } = await train(model, chats, heldOut);
  console.log('Asking the tuned model ...\n');
  const after = await examine(model, heldOut, adapter);

  const line = (name, a, b) => console.log(`${name.padEnd(28)}${a.padStart(8)}${b.padStart(10)}`);
  line('On the held-out chats', 'before', 'after');
  line('loss (nats per token)', before.loss.toFixed(3), after.loss.toFixed(3));
  line('ticket fields right', percent(before.fields), percent(after.fields));
  line('whole tickets right', percent(before.whole), percent(after.whole));

  console.log(`\nA customer writes:\n${indent(heldOut[0].messages.at(-2).content)}`);
  console.log(`Before:\n${indent(before.answers[0])}\nAfter:\n${indent(after.answers[0])}`);
  console.log(
    `\nThe PEFT adapter lies in ${saved}\n` +
      `All of this took ${formatDuration((performance.now() - started) / 1000)} after the build.`,
  );
  await model.dispose();
}

main().catch((error) => {
  console.error(describeError(error));
  process.exitCode = 1;
});
