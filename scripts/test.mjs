// Every check of the project, one part after the other; a failing part doesn't stop the others. The
// last line is "N passed, N failed" over all parts. Sets itself up on a fresh clone.
//   node scripts/test.mjs                 everything
//   node scripts/test.mjs lint unit       some parts (names below)
//   --clang                               also build with clang++
//   --sanitizers                          also the native tests under ASan and UBSan, and under TSan
//   --fuzz SECONDS                        also each fuzzer for so long (needs clang++)
//   --arm64                               also the native tests for arm64, under qemu
//   --cuda                                also the CUDA plug-in, compiled and loaded (nvcc or pip)
//   --node PATH                           also run the Node tests with another Node
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { ScriptError, buildFolder, main, root, run, tryRun } from './checkout.mjs';
import { buildNative, checkTools, setUpDist, setUpPackages } from './setup.mjs';
import { buildVariant } from './variants.mjs';

const bin = (name) => path.join(root, 'node_modules', '.bin', name);
const one = (passed) => ({ passed: passed ? 1 : 0, failed: passed ? 0 : 1 });
const script = (...args) => one(tryRun(process.execPath, args).status === 0);

const parts = {
  build: () => buildWithoutWarnings('gcc', () => buildNative([], { capture: true })),
  dist: () => (setUpDist(), one(true)),
  format: () => script('scripts/format.mjs'),
  lint: () => one(tryRun(bin('oxlint'), ['--deny-warnings']).status === 0),
  types: () => typeChecks(),
  layers: () => script('scripts/check_layers.mjs'),
  symbols: () => script('scripts/check_weak_symbols.mjs'),
  native: () => nativeTests(),
  install: () => one(tryRun('bash', ['scripts/check_install.sh', buildFolder]).status === 0),
  node: () => nodeTests(process.execPath),
  package: () => counted(tryRun(process.execPath, ['test/package/install.mjs'], { capture: true })),
};

// Only when asked for.
const optionalParts = {
  clang: () => buildWithClang(),
  asan: () => variantTests('asan'),
  tsan: () => variantTests('tsan'),
  arm64: () => variantTests('arm64'),
  cuda: () => cudaPlugin(),
  fuzz: (seconds = '5') => counted(tryRun('bash', ['scripts/fuzz.sh', seconds], { capture: true })),
};

function buildWithoutWarnings(name, build) {
  const output = build();
  const warnings = output.split('\n').filter((line) => line.includes('warning:'));
  for (const warning of new Set(warnings)) console.log(warning);
  console.log(`${name}: ${warnings.length} warnings`);
  return one(warnings.length === 0);
}

function buildWithClang() {
  const folder = path.join(buildFolder, 'clang');
  // Only compiled, not run: without optimization it takes half the time.
  const cmake = ['CMAKE_CXX_COMPILER=clang++', 'CMAKE_CXX_FLAGS_RELEASE=-O0', 'LOWRANK_TESTS=ON'];
  const options = [...cmake.map((option) => `--CD${option}`), '-O', folder];
  return buildWithoutWarnings('clang', () => {
    run(bin('cmake-js'), ['configure', ...options, '-l', 'error'], { capture: true });
    const { stdout, stderr } = run('cmake', ['--build', folder, '--parallel'], { capture: true });
    return stdout + stderr;
  });
}

function typeChecks() {
  const projects = ['tsconfig.json', 'test/tsconfig.json'];
  const results = projects.map((file) =>
    one(tryRun(bin('tsc'), ['--noEmit', '-p', file]).status === 0),
  );
  if (existsSync(path.join(root, 'test', 'types'))) {
    const tsd = tryRun(bin('tsd'), [
      '--typings',
      'dist/index.d.ts',
      '--files',
      'test/types/*.test-d.ts',
    ]);
    results.push(one(tsd.status === 0));
  }
  return sum(results);
}

// The counts of a program that ends with "N passed, N failed"; its output, unless it is clean.
function counted(result, { quiet = false } = {}) {
  const counts = /(\d+) passed, (\d+) failed\s*$/.exec(result.stdout ?? '');
  const clean = result.status === 0 && counts !== null;
  if (!clean || !quiet) console.log(`${result.stdout}${result.stderr}`.trimEnd());
  if (!clean) console.log(`exit: ${result.signal ?? result.status}`);
  const failed = clean ? 0 : Math.max(1, Number(counts?.[2] ?? 0));
  return { passed: Number(counts?.[1] ?? 0), failed };
}

function variantTests(name) {
  const { folder, tests, env } = buildVariant(name);
  return nativeTests(folder, { only: tests, env });
}

function cudaPlugin() {
  const results = [variantTests('cuda'), script('scripts/check_cuda_libraries.mjs')];
  return sum([...results, script('scripts/list_unmodelled.mjs')]);
}

// `only`: names of tests; none means all.
function nativeTests(folder = buildFolder, { only = [], env = {} } = {}) {
  const listing = run('ctest', ['--test-dir', folder, '--show-only=json-v1'], {
    capture: true,
  });
  const known = JSON.parse(listing.stdout).tests;
  const tests = known.filter(({ name }) => only.length === 0 || only.includes(name));
  const missing = only.find((name) => !known.some((test) => test.name === name));
  if (missing) throw new ScriptError(`there is no native test ${missing}`);
  if (tests.length === 0) throw new ScriptError('no native tests are configured');
  return sum(
    tests.map(({ name, command, properties = [] }) => {
      if (!command) {
        console.log(`${name}: isn't built`);
        return one(false);
      }
      const cwd = properties.find((p) => p.name === 'WORKING_DIRECTORY')?.value ?? root;
      const start = Date.now();
      const result = tryRun(command[0], command.slice(1), { capture: true, cwd, env });
      if (result.status === properties.find((p) => p.name === 'SKIP_RETURN_CODE')?.value) {
        console.log(`${name}: SKIPPED, ${result.stdout.trim()}`);
        return { passed: 0, failed: 0 };
      }
      const { passed, failed } = counted(result, { quiet: true });
      const seconds = ((Date.now() - start) / 1000).toFixed(1);
      console.log(`${name}: ${passed} passed, ${failed} failed (${seconds} s)`);
      return { passed, failed };
    }),
  );
}

function otherNode(node) {
  const { stdout } = run(node, ['--version'], { capture: true });
  console.log(`Node ${stdout.trim()}`);
  return nodeTests(node);
}

function nodeTests(node) {
  const report = path.join(buildFolder, 'vitest.json');
  rmSync(report, { force: true });
  const vitest = path.join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const args = ['run', '--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  const result = tryRun(node, [vitest, ...args]);
  if (!existsSync(report)) return one(false);
  const { numPassedTests, numFailedTests, numPendingTests } = JSON.parse(
    readFileSync(report, 'utf8'),
  );
  if (numPendingTests > 0) console.log(`${numPendingTests} SKIPPED`);
  // A file that can't even be loaded fails no test of its own.
  const failed = numFailedTests === 0 && result.status !== 0 ? 1 : numFailedTests;
  return { passed: numPassedTests, failed };
}

function sum(results) {
  return results.reduce(
    (total, { passed, failed }) => ({
      passed: total.passed + passed,
      failed: total.failed + failed,
    }),
    { passed: 0, failed: 0 },
  );
}

await main(() => {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      clang: { type: 'boolean' },
      sanitizers: { type: 'boolean' },
      arm64: { type: 'boolean' },
      cuda: { type: 'boolean' },
      fuzz: { type: 'string' },
      node: { type: 'string', multiple: true },
    },
  });
  const all = { ...parts, ...optionalParts };
  const unknown = positionals.find((name) => !(name in all));
  if (unknown) throw new ScriptError(`unknown part "${unknown}": ${Object.keys(all).join(', ')}`);
  const wanted = new Set(positionals.length === 0 ? Object.keys(parts) : positionals);
  if (values.clang) wanted.add('clang');
  if (values.sanitizers) wanted.add('asan').add('tsan');
  if (values.fuzz !== undefined) wanted.add('fuzz');
  if (values.arm64) wanted.add('arm64');
  if (values.cuda) wanted.add('cuda');
  const chosen = Object.entries(all).filter(([name]) => wanted.has(name));
  if (values.fuzz !== undefined)
    chosen.find(([name]) => name === 'fuzz')[1] = () => optionalParts.fuzz(values.fuzz);
  for (const node of values.node ?? []) chosen.push([`node at ${node}`, () => otherNode(node)]);

  checkTools();
  setUpPackages();
  mkdirSync(buildFolder, { recursive: true });
  const results = chosen.map(([name, part]) => {
    console.log(`\n==== ${name}`);
    const start = Date.now();
    let result;
    try {
      result = part();
    } catch (error) {
      console.log(error instanceof ScriptError ? error.message : error);
      result = one(false);
    }
    return { name, seconds: (Date.now() - start) / 1000, ...result };
  });

  console.log('\n==== summary');
  for (const { name, seconds, passed, failed } of results) {
    const mark = failed === 0 ? 'ok  ' : 'FAIL';
    console.log(`${mark} ${name}: ${passed} passed, ${failed} failed (${seconds.toFixed(0)} s)`);
  }
  const { passed, failed } = sum(results);
  if (failed > 0 || passed === 0) process.exitCode = 1;
  console.log(`${passed} passed, ${failed} failed`);
});
