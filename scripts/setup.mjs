// Brings a checkout up to date: packages, engine, compiled TypeScript. Does only what is missing or
// outdated, so the demo and the tests begin with it. `node scripts/setup.mjs [packages|native|dist]`
import { existsSync, lstatSync, readFileSync, readdirSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { ScriptError, buildFolder, hasCommand, main, root, run } from './checkout.mjs';

const bin = (name) => path.join(root, 'node_modules', '.bin', name);

export function checkTools() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (!(major > 22 || (major === 22 && minor >= 12) || (major === 20 && minor >= 19))) {
    throw new ScriptError(`Node ${process.version} is too old: 20.19, or 22.12 and newer`);
  }
  const missing = [];
  if (!hasCommand('cmake')) missing.push('cmake (3.22 or newer)');
  if (!['c++', 'g++', 'clang++'].some(hasCommand))
    missing.push('a C++20 compiler (g++ or clang++)');
  if (!hasCommand('ninja') && !hasCommand('make')) missing.push('ninja or make');
  if (missing.length > 0) {
    throw new ScriptError(
      `missing: ${missing.join(', ')}\n  Debian and Ubuntu: sudo apt install cmake g++ ninja-build`,
    );
  }
}

// npm writes what it installed to node_modules/.package-lock.json.
function packagesAreCurrent() {
  const installedFile = path.join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(installedFile)) return false;
  const installed = JSON.parse(readFileSync(installedFile, 'utf8')).packages;
  const wanted = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8')).packages;
  return Object.entries(wanted).every(
    ([name, entry]) => name === '' || entry.optional || installed[name]?.version === entry.version,
  );
}

export function setUpPackages() {
  if (packagesAreCurrent()) return;
  const folder = path.join(root, 'node_modules');
  if (existsSync(folder) && lstatSync(folder).isSymbolicLink()) {
    console.warn(
      'warning: node_modules is a link and differs from package-lock.json; left as it is',
    );
    return;
  }
  console.log('Installing packages (npm ci)');
  run('npm', ['ci', '--no-audit', '--no-fund']);
}

/** Configures and builds `targets`; returns what the compiler printed when `capture` is set. */
export function buildNative(targets, { capture = false } = {}) {
  // The addon by name: a folder that plain cmake configured first remembers it as off.
  const options = ['--CDLOWRANK_TESTS=ON', '--CDLOWRANK_C_LIBRARY=ON', '--CDLOWRANK_ADDON=ON'];
  run(bin('cmake-js'), ['configure', ...options, '-l', 'error'], { capture: true });
  const jobs = String(os.availableParallelism());
  const args = ['--build', buildFolder, '--parallel', jobs];
  if (targets.length > 0) args.push('--target', ...targets);
  const { stdout, stderr } = run('cmake', args, { capture });
  return `${stdout ?? ''}${stderr ?? ''}`;
}

export function setUpNative() {
  console.log('Building the engine');
  buildNative(['lowrank_node']);
}

function newestTime(folder) {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true });
  return Math.max(
    0,
    ...files
      .filter((f) => f.isFile())
      .map((f) => statSync(path.join(f.parentPath ?? f.path, f.name)).mtimeMs),
  );
}

export function setUpDist() {
  const entry = path.join(root, 'dist', 'index.js');
  const sources = Math.max(
    newestTime(path.join(root, 'lib')),
    statSync(path.join(root, 'tsconfig.json')).mtimeMs,
  );
  if (existsSync(entry) && newestTime(path.join(root, 'dist')) > sources) return;
  console.log('Compiling TypeScript');
  run(bin('tsc'), ['-p', 'tsconfig.json']);
}

export function setUp() {
  checkTools();
  setUpPackages();
  setUpNative();
  setUpDist();
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const parts = { packages: setUpPackages, native: setUpNative, dist: setUpDist };
  const names = process.argv.slice(2);
  await main(() => {
    if (names.length === 0) return setUp();
    for (const name of names) {
      if (!parts[name]) throw new ScriptError(`unknown part "${name}": packages, native or dist`);
      parts[name]();
    }
  });
}
