// Packs the package as it is published, installs it into an empty project with install scripts
// blocked, and uses it there. Ends with "N passed, N failed".
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { root, tryRun } from '../../scripts/checkout.mjs';
import { packPlatform } from '../../scripts/pack_platform.mjs';
import { loadBuild, writeTinyModel } from '../support/tiny_model.mjs';

const work = mkdtempSync(path.join(os.tmpdir(), 'lowrank-package-'));
const project = path.join(work, 'project');
let passed = 0;
let failed = 0;

function check(name, condition, detail = '') {
  if (condition) passed++;
  else failed++;
  console.log(`${condition ? 'ok  ' : 'FAIL'} ${name}${condition ? '' : `\n${detail}`}`);
}

/** Runs a program in the project; it must print `expected` last. */
function runs(name, file, source, expected) {
  writeFileSync(path.join(project, file), source);
  const { status, stdout, stderr } = tryRun(process.execPath, [file], {
    capture: true,
    cwd: project,
  });
  const last = stdout.trim().split('\n').at(-1);
  check(name, status === 0 && last === expected, `exit ${status}\n${stdout}${stderr}`);
}

const trainOneStep = (importLine) => `
${importLine}
(async () => {
  const model = await Model.load('model', { threads: 1 });
  const adapter = await Adapter.create(model, { r: 4 });
  const session = await model.native.createSession(adapter.native, {
    optimizer: 'adamw', beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0, maxGradNorm: 1,
    seed: 1, maxTokens: 8, checkpointing: 'none',
  });
  const inputIds = Int32Array.of(97, 98, 99, 100);
  const batch = { inputIds, labels: inputIds, documentOffsets: Int32Array.of(0, 4) };
  const { loss } = await session.step([batch], { learningRate: 1e-3, step: 1 });
  const text = await model.generate('ab', { adapter, maxNewTokens: 3 }).text();
  await model.dispose();
  console.log(Number.isFinite(loss) && typeof text === 'string' ? 'trained' : 'no');
})();
`;

try {
  const tarballs = packPlatform({ out: path.join(work, 'tarballs'), local: true });
  const listing = tryRun('tar', ['tzf', tarballs.main], { capture: true }).stdout;
  check(
    'no binding.gyp, sources or tests in the tarball',
    !/binding\.gyp|\.cc$|\/test\//m.test(listing),
  );
  check('no native binary in the main package', !listing.includes('.node'));

  mkdirSync(project);
  writeFileSync(
    path.join(project, 'package.json'),
    JSON.stringify({ name: 'empty', private: true }),
  );
  const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'];
  const install = tryRun('npm', ['install', ...options, tarballs.main], {
    capture: true,
    cwd: project,
  });
  check('installs with scripts blocked', install.status === 0, install.stdout + install.stderr);
  // A lockfile-driven install reads other metadata (which once made npm run node-gyp by itself).
  rmSync(path.join(project, 'node_modules'), { recursive: true, force: true });
  const again = tryRun('npm', ['ci', '--prefer-offline', '--no-audit', '--no-fund'], {
    capture: true,
    cwd: project,
  });
  check(
    'npm ci installs and builds nothing',
    again.status === 0 && !/gyp|install script/i.test(again.stdout + again.stderr),
    again.stdout + again.stderr,
  );

  await writeTinyModel(loadBuild(), path.join(project, 'model'));
  runs(
    'import, load, train one step, generate',
    'esm.mjs',
    trainOneStep("import { Adapter, Model } from 'lowrank';"),
    'trained',
  );
  runs(
    'the same through require()',
    'cjs.cjs',
    trainOneStep("const { Adapter, Model } = require('lowrank');"),
    'trained',
  );
  runs(
    'lowrank/kernels',
    'kernels.mjs',
    "import { squaredNorm } from 'lowrank/kernels';\nconsole.log((await squaredNorm({ x: Float32Array.of(3, 4) })).result);",
    '25',
  );

  rmSync(path.join(project, 'node_modules', '@lowrank'), { recursive: true, force: true });
  runs(
    'without the platform package the error says what to do',
    'missing.mjs',
    `import { Model } from 'lowrank';
const error = await Model.load('model').catch((error) => error);
const places = ['node_modules/lowrank', '@lowrank/'].every((place) => error.message.includes(place));
console.log(error.code, places, error.hint.includes('npm install --include=optional lowrank'));`,
    'ERR_LOWRANK_BINARY_NOT_FOUND true true',
  );

  const stage = path.join(root, 'build', 'package');
  const publint = tryRun(path.join(root, 'node_modules', '.bin', 'publint'), ['--strict', stage], {
    capture: true,
  });
  check('publint', publint.status === 0, publint.stdout + publint.stderr);
} catch (error) {
  check('runs to its end', false, error.stack);
} finally {
  rmSync(work, { recursive: true, force: true });
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
