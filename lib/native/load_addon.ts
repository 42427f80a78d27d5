// Finds and loads the native engine; when that fails, says every place that was tried and what to do.
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { LowrankError } from '../errors.js';
import type { NativeAddon } from './addon.js';
import { cudaFolder } from './cuda_package.js';

const require = createRequire(import.meta.url);
// lib/native and dist/native lie equally deep.
const packageRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

let loaded: NativeAddon | undefined;

/** The engine, loaded on first use. */
export function loadAddon(): NativeAddon {
  loaded ??= withPlugins(findAddon());
  return loaded;
}

/** The npm package that carries the engine's binary for this machine. */
export function platformPackage(): string {
  const libc = process.platform === 'linux' ? (usesGlibc() ? '-gnu' : '-musl') : '';
  return `@lowrank/${process.platform}-${process.arch}${libc}`;
}

function withPlugins(addon: NativeAddon): NativeAddon {
  const folder = cudaFolder();
  if (folder !== undefined) addon.setPluginFolder(folder);
  return addon;
}

function usesGlibc(): boolean {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } };
  return report?.header?.glibcVersionRuntime !== undefined;
}

function findAddon(): NativeAddon {
  const nodeGypBuild = require('node-gyp-build') as (folder: string) => NativeAddon;
  const override = process.env.LOWRANK_BINARY;
  const platform = platformPackage();
  const candidates: [string, () => NativeAddon][] = override
    ? [[`LOWRANK_BINARY=${override}`, () => require(path.resolve(override)) as NativeAddon]]
    : [
        [`build in ${packageRoot}`, () => nodeGypBuild(packageRoot)],
        [platform, () => nodeGypBuild(path.dirname(require.resolve(`${platform}/package.json`)))],
      ];

  const failures: string[] = [];
  let cause: unknown;
  for (const [place, load] of candidates) {
    try {
      return load();
    } catch (error) {
      cause = error;
      failures.push(`  - ${place}: ${String((error as Error).message).split('\n')[0]}`);
    }
  }
  throw new LowrankError(
    'ERR_LOWRANK_BINARY_NOT_FOUND',
    `could not load the native engine for ${process.platform}-${process.arch} ` +
      `(Node ${process.version}); tried\n${failures.join('\n')}`,
    { hint: hint(override), cause },
  );
}

function hint(override: string | undefined): string {
  if (override) return 'unset LOWRANK_BINARY, or point it at a lowrank.node built for this machine';
  const forThis = `npm install --os=${process.platform} --cpu=${process.arch} lowrank`;
  return [
    'npm install --include=optional lowrank   (optional packages were left out)',
    `  ${forThis}   (node_modules came from another machine)`,
    '  npm run build:native   (in a checkout: needs CMake and a C++20 compiler)',
  ].join('\n');
}
