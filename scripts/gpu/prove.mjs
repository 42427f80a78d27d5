// The checks behind scripts/gpu/prove.sh. Each part runs although another failed; a check that could
// not run counts as failed. Writes report.md and the logs to $OUT (default build/gpu-report).
import { createWriteStream, mkdirSync, writeFileSync } from 'node:fs';
import { spawn } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';

import { buildFolder, root, tryRun } from '../checkout.mjs';

const folder = path.join(buildFolder, 'gpu');
const out = process.env.OUT ?? path.join(buildFolder, 'gpu-report');
const python = process.env.PYTHON ?? 'python3';
const environment = { ...process.env, LOWRANK_PLUGIN_PATH: folder };
const node = (...args) => [process.execPath, ...args];
const test = (name) => path.join(folder, name);

function capability() {
  const query = ['--query-gpu=compute_cap', '--format=csv,noheader'];
  const answer = tryRun('nvidia-smi', query, { capture: true }).stdout ?? '';
  const digits = answer.split('\n')[0].replace('.', '').trim();
  return digits === '90' ? '90a' : digits || '80';
}

const jobs = String(os.availableParallelism());
const MODELS = ['plugin', 'engine', 'golden', 'golden_curves', 'state'];
const TARGETS = ['lowrank_cuda', ...['gpu_ops', ...MODELS].map((name) => `cuda_${name}_test`)];
const OPS = test('test/cuda/cuda_gpu_ops_test');
const sanitized = (tool) => [
  ...['compute-sanitizer', '--tool', tool, '--error-exitcode', '9', OPS],
];

const OFF = { LOWRANK_CUBLASLT: 'off' };

/** Part: name of the check, command, more of the environment. Seconds that one check may take. */
const LIMIT = 540;
const parts = {
  machine: [
    ['gpu', ['nvidia-smi']],
    ['compiler', ['nvcc', '--version']],
    ['processor', ['lscpu']],
  ],
  build: [
    [
      'configure',
      [
        ...['cmake', '-S', root, '-B', folder, '-DLOWRANK_TESTS=ON', '-DLOWRANK_CUDA=ON'],
        `-DLOWRANK_CUDA_ARCHITECTURES=${capability()}`,
      ],
    ],
    ['build', ['cmake', '--build', folder, '--parallel', jobs, '--target', ...TARGETS]],
  ],
  doctor: [['doctor', node('dist/cli/main.js', 'doctor')]],
  // The first gives cuBLASLt products of every size, and fails without it: its last case says why.
  ops: [
    ['operations with cuBLASLt', [OPS], { LOWRANK_CUBLASLT_MIN: '1', LOWRANK_WANT_CUBLASLT: '1' }],
    ['operations without cuBLASLt', [OPS], OFF],
  ],
  models: MODELS.map((name) => [name.replace('_', ' '), [test(`test/cuda/cuda_${name}_test`)]]),
  memcheck: [['memcheck', sanitized('memcheck'), OFF]],
  racecheck: [['racecheck', sanitized('racecheck'), OFF]],
  initcheck: [['initcheck', sanitized('initcheck'), OFF]],
  curves: [['loss curves', node('scripts/gpu/curves.mjs', '--python', python)]],
  rounds: [['1,000 rounds of load and dispose', node('scripts/gpu/rounds.mjs')]],
  demo: [['demo', node('examples/demo.mjs', '--device', 'cuda')]],
};

function check(name, [command, ...args], more = {}) {
  const log = path.join(out, `${name.replace(/[^a-z0-9]+/gi, '-')}.log`);
  const stream = createWriteStream(log);
  const env = { ...environment, ...more };
  const child = spawn(command, args, { cwd: root, env, timeout: LIMIT * 1000 });
  let text = '';
  for (const output of [child.stdout, child.stderr])
    output.on('data', (chunk) => {
      text += chunk;
      stream.write(chunk);
    });
  return new Promise((resolve) => {
    const done = (status) => stream.end(() => resolve({ status, text }));
    child.once('error', (error) => done(error.message));
    child.once('close', (code, signal) => done(code ?? signal));
  });
}

mkdirSync(out, { recursive: true });
const wanted = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(parts);
const unknown = wanted.filter((part) => !(part in parts));
if (unknown.length > 0) throw new Error(`no part ${unknown.join(', ')}`);
const report = ['# The CUDA backend on a GPU', '', new Date().toISOString(), ''];
let [passed, failed] = [0, 0];
for (const part of wanted)
  for (const [name, command, more] of parts[part]) {
    const began = performance.now();
    const { status, text } = await check(name, command, more);
    const seconds = ((performance.now() - began) / 1000).toFixed(0);
    if (status === 0) passed++;
    else failed++;
    const line = `${status === 0 ? 'ok  ' : 'FAIL'} ${name} (${seconds} s, status ${status})`;
    const lines = text.trimEnd().split('\n');
    console.log(line);
    if (status !== 0) console.log(lines.slice(-30).join('\n'));
    const relative = command.map((word) => word.replace(root, '.'));
    report.push(`## ${line}`, '', '```', `$ ${relative.join(' ')}`, ...lines.slice(-40), '```', '');
    writeFileSync(path.join(out, 'report.md'), report.join('\n'));
  }
const last = `${passed} passed, ${failed} failed`;
writeFileSync(path.join(out, 'report.md'), [...report, last, ''].join('\n'));
console.log(last);
process.exitCode = failed > 0 ? 1 : 0;
