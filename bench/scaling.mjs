// Whether a step's cost is linear: in tokens (packed documents of one length), in layers, and, for one
// document that grows, in the FLOPs that its attention needs. One point of each series in turn; of
// each point the fastest step counts, because whatever else the machine does only adds to it.
//   npm run bench -- scaling [--shape smollm2-135m] [--method lora] [--dtype bf16] [--layers 4]
//     [--rounds 3] [--longest 8192] [--results bench/results]
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { setUp } from '../scripts/setup.mjs';

setUp();
const { shapeConfig } = await import('../dist/bench/shapes.js');
const { saveResults } = await import('../dist/bench/results.js');
const { benchTrain } = await import('../dist/bench/train.js');

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'smollm2-135m' },
    method: { type: 'string', default: 'lora' },
    dtype: { type: 'string', default: 'bf16' },
    layers: { type: 'string', default: '4' },
    rounds: { type: 'string', default: '3' },
    longest: { type: 'string', default: '8192' },
    results: { type: 'string' },
  },
});
const { shape, method, dtype } = values;
const DOCUMENT = 512;
const folder = mkdtempSync(path.join(os.tmpdir(), 'lowrank-scaling-'));

async function shapeWith(layers) {
  const file = path.join(folder, `${layers}.json`);
  const config = JSON.parse(await shapeConfig(shape, dtype));
  writeFileSync(file, JSON.stringify({ ...config, num_hidden_layers: layers }));
  return file;
}

async function points() {
  const few = await shapeWith(Number(values.layers));
  const list = [];
  for (const documents of [1, 2, 4, 8])
    list.push({ series: 'documents', shape: few, documents, seq: documents * DOCUMENT });
  for (let seq = 256; seq <= Number(values.longest); seq *= 2)
    list.push({ series: 'length', shape: few, documents: 1, seq });
  for (const layers of [2, 4, 8, 16])
    list.push({
      series: 'layers',
      shape: await shapeWith(layers),
      documents: 1,
      seq: DOCUMENT,
      layers,
    });
  return list;
}

try {
  const list = await points();
  const fastest = list.map(() => Infinity);
  for (let round = 0; round < Number(values.rounds); round++)
    for (const [i, { shape, documents, seq }] of list.entries()) {
      const { row } = await benchTrain({
        ...{ shape, method, dtype, seq, documents, batch: 1, checkpointing: 'none' },
        steps: Math.min(8, Math.ceil(4096 / seq)),
      });
      list[i].flops = row.mfu * row.peak_flops_per_second * row.seconds_per_step;
      fastest[i] = Math.min(fastest[i], row.seconds_min);
    }
  const rows = list.map(({ series, documents, seq, layers = Number(values.layers), flops }, i) => ({
    ...{ shape, method, dtype, series, documents, seq, layers },
    seconds_per_step: fastest[i],
    microseconds_per_token: (fastest[i] / seq) * 1e6,
    flops_per_second: flops / fastest[i],
  }));
  console.table(rows, [
    ...['series', 'documents', 'seq', 'layers', 'seconds_per_step'],
    ...['microseconds_per_token', 'flops_per_second'],
  ]);
  const layered = rows.filter((row) => row.series === 'layers');
  for (let i = 1; i < layered.length; i++) {
    const [less, more] = [layered[i - 1], layered[i]];
    const each = (more.seconds_per_step - less.seconds_per_step) / (more.layers - less.layers);
    console.log(`layers ${less.layers} to ${more.layers}: ${(each * 1e3).toFixed(2)} ms a layer`);
  }
  if (values.results) await saveResults(values.results, 'scaling', rows);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
