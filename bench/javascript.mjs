// What is called from JavaScript, as Benchmark.js suites: reading rows, rendering and encoding chats,
// packing, and what crossing into the engine costs.
//   npm run bench -- javascript [--filter pack] [--results bench/results]
import { parseArgs } from 'node:util';

import Benchmark from 'benchmark';

import { setUp } from '../scripts/setup.mjs';

setUp();
const { parseRow } = await import('../dist/data/rows.js');
const { packBestFitDecreasing } = await import('../dist/data/packing.js');
const { shuffle, identity } = await import('../dist/data/order.js');
const { atOnce } = await import('../dist/pause.js');
const { ChatTemplate, Tokenizer } = await import('../dist/index.js');
const { loadAddon } = await import('../dist/native/load_addon.js');
const { rmsNormForward } = await import('../dist/kernels.js');
const { saveResults } = await import('../dist/bench/results.js');

const { values } = parseArgs({
  options: { filter: { type: 'string', default: '' }, results: { type: 'string' } },
});
const folder = new URL('../examples/base-model', import.meta.url).pathname;
const tokenizer = await Tokenizer.load(folder);
const template = await ChatTemplate.load(folder, tokenizer);
const chat = {
  messages: [
    { role: 'user', content: 'My order HP-53821 has not arrived yet. Where is my kettle?' },
    { role: 'assistant', content: 'I have asked the carrier where the kettle is.' },
  ],
};
const text = template.render(chat.messages);
const examples = identity(100_000);
const length = (i) => 20 + ((i * 7919) % 480);
const addon = loadAddon();
const matrix = { data: new Float32Array(64), rows: 1, cols: 64 };
const weight = new Float32Array(64).fill(1);

const later = (run) => ({ defer: true, fn: (deferred) => run().then(() => deferred.resolve()) });
const suite = new Benchmark.Suite();
const add = (name, what) => name.includes(values.filter) && suite.add(name, what);
add('parse a chat row', () => parseRow(chat));
add('render a chat', () => template.render(chat.messages));
add(
  'encode a chat',
  later(() => tokenizer.encode(text)),
);
add('shuffle 100,000 examples', () => atOnce(shuffle(examples.slice(), 1, 0)));
add('pack 100,000 examples', () => atOnce(packBestFitDecreasing(examples, length, 2048)));
add('call into the engine', () => addon.memory());
add(
  'run a kernel of 64 values and come back',
  later(() => rmsNormForward({ x: matrix, weight, eps: 1e-6 }, { threads: 1 })),
);

const rows = [];
suite.on('cycle', ({ target }) => {
  const { mean, rme } = target.stats;
  console.log(`${target.name.padEnd(42)}${(mean * 1e6).toFixed(2)} us ± ${rme.toFixed(1)} %`);
  rows.push({ name: target.name, seconds: mean, spread_percent: rme });
});
suite.on('complete', () => {
  if (values.results) void saveResults(values.results, 'javascript', rows);
});
suite.run({ async: true });
