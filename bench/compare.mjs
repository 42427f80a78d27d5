// The same LoRA steps through lowrank and through torch + transformers + PEFT, one step of each in
// turn, so that whatever else the machine does disturbs both. Before that, parity: the losses of both
// against PEFT in f32, and the gradients of the first step.
//   npm run bench:compare -- [--shape smollm2-135m] [--dtype bf16] [--batch 4] [--seq 512]
//     [--method lora|qlora|full] [--rounds 7] [--parity-steps 50] [--isa avx512] [--threads N]
//     [--device cpu|cuda] [--peers eager,compile] [--results bench/results] [--python python3]
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { setUp } from '../scripts/setup.mjs';

setUp();
const { Peer, makeWork } = await import('./peers/work.mjs');
const { median } = await import('../dist/bench/statistics.js');
const { saveResults } = await import('../dist/bench/results.js');

const { values } = parseArgs({
  options: {
    shape: { type: 'string', default: 'smollm2-135m' },
    dtype: { type: 'string', default: 'bf16' },
    method: { type: 'string', default: 'lora' },
    device: { type: 'string', default: 'cpu' },
    batch: { type: 'string', default: '4' },
    seq: { type: 'string', default: '512' },
    rounds: { type: 'string', default: '7' },
    'parity-steps': { type: 'string', default: '50' },
    'parity-seq': { type: 'string', default: '64' },
    isa: { type: 'string' },
    threads: { type: 'string' },
    peers: { type: 'string', default: 'eager,compile' },
    results: { type: 'string' },
    python: { type: 'string', default: 'python3' },
  },
});
const [batch, seq, rounds, paritySteps, paritySeq] = [
  values.batch,
  values.seq,
  values.rounds,
  values['parity-steps'],
  values['parity-seq'],
].map(Number);
const threads = values.threads === undefined ? 0 : Number(values.threads);
const here = import.meta.dirname;
const scratch = mkdtempSync(path.join(os.tmpdir(), 'lowrank-compare-'));

const lowrank = (options) =>
  new Peer('lowrank', process.execPath, [path.join(here, 'peers', 'lowrank_peer.mjs')], {
    options: { threads, isa: values.isa, ...options },
  });
const onednnIsa = { avx2: 'AVX2', avx512: 'AVX512_CORE', avx512_bf16: 'AVX512_CORE_BF16' }[
  values.isa
];
// The same limit on instructions as ours.
const environment = {
  ...(onednnIsa ? { ONEDNN_MAX_CPU_ISA: onednnIsa } : {}),
  ...(values.isa === 'avx2'
    ? { MKL_ENABLE_INSTRUCTIONS: 'AVX2', ATEN_CPU_CAPABILITY: 'avx2' }
    : {}),
};
const peft = (variant, options) =>
  new Peer(`peft ${variant}`, values.python, [path.join(here, 'peers', 'peft_peer.py')], {
    options: { threads, compile: variant === 'compile', ...options },
    environment,
  });

function readTensors(file) {
  const data = readFileSync(file);
  const length = Number(data.readBigUInt64LE(0));
  const header = JSON.parse(data.subarray(8, 8 + length).toString());
  delete header.__metadata__;
  return new Map(
    Object.entries(header).map(
      ([
        name,
        {
          data_offsets: [begin, end],
        },
      ]) => [
        name,
        new Float32Array(
          data.buffer.slice(
            data.byteOffset + 8 + length + begin,
            data.byteOffset + 8 + length + end,
          ),
        ),
      ],
    ),
  );
}

function cosine(a, b) {
  let [dot, aa, bb] = [0, 0, 0];
  for (const [name, x] of a) {
    const y = b.get(name);
    if (y?.length !== x.length) throw new Error(`gradients differ in shape: ${name}`);
    for (let i = 0; i < x.length; i++) {
      dot += x[i] * y[i];
      aa += x[i] * x[i];
      bb += y[i] * y[i];
    }
  }
  return dot / Math.sqrt(aa * bb);
}

/** Losses over the steps, and the first gradients, of each in turn; the first is the yardstick. */
async function parity(work) {
  const common = { ...work, seq: paritySeq, quantize: true };
  const sides = [
    () => peft('eager', { ...common, dtype: 'f32' }),
    () => lowrank({ ...common, dtype: values.dtype }),
    () => peft('eager', { ...common, dtype: values.dtype }),
  ];
  const curves = [];
  const gradients = [];
  for (const [i, start] of sides.entries()) {
    const side = start();
    await side.ready;
    const file = path.join(scratch, `gradients${i}`);
    await side.ask(`gradients ${file}`);
    gradients.push(readTensors(file));
    const losses = [];
    for (let step = 0; step < paritySteps; step++) losses.push((await side.ask('step')).loss);
    curves.push(losses);
    await side.end();
  }
  const off = (curve) => Math.max(...curve.map((loss, i) => Math.abs(loss - curves[0][i])));
  return {
    first_loss: curves[0][0],
    last_loss: curves[0].at(-1),
    lowrank_loss_off: off(curves[1]),
    peft_loss_off: off(curves[2]),
    lowrank_gradient_cosine: cosine(gradients[0], gradients[1]),
    peft_gradient_cosine: cosine(gradients[0], gradients[2]),
  };
}

async function timed(work) {
  const common = { ...work, seq, dtype: values.dtype };
  const sides = [lowrank(common), ...values.peers.split(',').map((p) => peft(p, common))];
  const seconds = sides.map(() => []);
  for (const side of sides) {
    const { threads: used } = await side.ready;
    console.log(`${side.name}: ${used} threads`);
    for (let i = 0; i < 2; i++) await side.ask('step'); // warm up; compiles
  }
  for (let round = 0; round < rounds; round++)
    for (const [i, side] of sides.entries()) seconds[i].push((await side.ask('step')).seconds);
  const memory = [];
  for (const side of sides) {
    memory.push((await side.ask('memory')).bytes);
    await side.end();
  }
  return sides.map((side, i) => ({
    side: side.name,
    seconds_per_step: median(seconds[i]),
    seconds_min: Math.min(...seconds[i]),
    seconds_max: Math.max(...seconds[i]),
    tokens_per_second: (batch * seq) / median(seconds[i]),
    speed_up: median(seconds[i]) / median(seconds[0]),
    peak_memory_bytes: memory[i],
    memory_ratio: memory[0] / memory[i],
  }));
}

try {
  const work = {
    ...(await makeWork(scratch, {
      shape: values.shape,
      dtype: values.dtype,
      count: Math.max(batch * seq * 4, batch * paritySeq * paritySteps),
    })),
    learningRate: 1e-3,
    batch,
    method: values.method,
    device: values.device,
  };
  const check = await parity(work);
  console.log('parity', check);
  const limit = values.dtype === 'f32' ? 1e-3 : 3 * check.peft_loss_off + 0.01;
  if (!(check.lowrank_loss_off <= limit)) {
    throw new Error(`no parity, so no figures: the loss is off by ${check.lowrank_loss_off}`);
  }
  const rows = (await timed(work)).map((row) => ({
    shape: values.shape,
    method: values.method,
    dtype: values.dtype,
    batch,
    seq,
    isa: values.isa ?? 'best',
    ...row,
    ...check,
  }));
  for (const row of rows)
    console.log(
      `${row.side.padEnd(14)} ${row.seconds_per_step.toFixed(3)} s a step (${row.seconds_min.toFixed(3)} to ` +
        `${row.seconds_max.toFixed(3)}), ${row.tokens_per_second.toFixed(0)} tokens/s, ` +
        `${(row.peak_memory_bytes / 1e9).toFixed(2)} GB; lowrank is ${row.speed_up.toFixed(2)} x as fast ` +
        `in ${row.memory_ratio.toFixed(2)} of the memory`,
    );
  if (values.results) await saveResults(values.results, 'compare', rows);
} catch (error) {
  console.error(`compare: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
// After a failure sides still wait for a line: their input ends with this process.
process.exit();
