// Includes go down the layers only (ARCHITECTURE.md); napi.h stands in one file; the engine never
// ends the process. Prints each violation as file:line and exits with 1.
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

import { root } from './checkout.mjs';

const engineLayers = ['train', 'model', 'ops', 'backend', 'io', 'core'];
// What each part may include beside its own folder. "" are the headers right under native/.
const allowed = {
  core: [],
  io: ['core'],
  backend: ['core'],
  ops: ['backend', 'core'],
  cpu: ['ops', 'backend', 'core'],
  model: ['ops', 'backend', 'io', 'core'],
  train: ['model', 'ops', 'backend', 'io', 'core'],
  node: ['', ...engineLayers],
  c_abi: ['', ...engineLayers],
  '': ['', ...engineLayers],
  cuda: ['ops', 'backend', 'core'],
};
// Plain types of the facade, for every layer from model up.
const sharedTypes = 'engine_types.h';
const sourceFile = /\.(h|cc|cu|cuh)$/;
const includeLine = /^\s*#\s*include\s*([<"])([^>"]+)[>"]/;
// Calls that would end the host process. std::terminate and friends included.
const endsProcess =
  /(?:^|[^\w.>:&])(?:std::|::)?(?:abort|exit|_exit|quick_exit|terminate|assert)\s*\(/;

function* filesUnder(folder) {
  for (const entry of readdirSync(path.join(root, folder), {
    recursive: true,
    withFileTypes: true,
  })) {
    if (!entry.isFile() || !sourceFile.test(entry.name)) continue;
    yield path.relative(root, path.join(entry.parentPath ?? entry.path, entry.name));
  }
}

function layerOf(file) {
  const parts = file.split(path.sep);
  if (parts[0] === 'cuda') return 'cuda';
  return parts.length > 2 ? parts[1] : '';
}

function* problems(file) {
  const layer = layerOf(file);
  const lines = readFileSync(path.join(root, file), 'utf8').split('\n');
  for (const [index, line] of lines.entries()) {
    const place = `${file}:${index + 1}`;
    const include = includeLine.exec(line);
    if (include) {
      const [, kind, target] = include;
      if (target === 'napi.h' && !file.endsWith(path.join('node', 'napi_setup.h')))
        yield `${place}: <napi.h> is included by node/napi_setup.h only`;
      if (kind === '<' && /^(node_api|js_native_api|uv)\b/.test(target) && layer !== 'node')
        yield `${place}: only native/node knows Node`;
      if (kind !== '"') continue;
      const folder = target.includes('/') ? target.split('/')[0] : '';
      if (target === sharedTypes && ['model', 'train'].includes(layer)) continue;
      if (folder === layer || (allowed[layer] ?? []).includes(folder)) continue;
      yield `${place}: ${layer || 'native/*.h'} must not include "${target}"`;
      continue;
    }
    const code = line.replace(/\/\/.*$/, '').replace(/"(?:[^"\\]|\\.)*"/g, '""');
    if (endsProcess.test(code)) yield `${place}: ends the process; throw lowrank::Error instead`;
  }
}

const found = [];
for (const folder of ['native', 'cuda']) {
  try {
    for (const file of filesUnder(folder)) found.push(...problems(file));
  } catch (error) {
    if (error.code !== 'ENOENT') throw error;
  }
}
for (const problem of found) console.log(problem);
console.log(found.length === 0 ? 'layers: no violation' : `layers: ${found.length} violations`);
process.exitCode = found.length === 0 ? 0 : 1;
