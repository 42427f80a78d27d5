// Makes the npm package of the CUDA plug-in (npm/linux-x64-cuda): machine code for every supported
// architecture and PTX. Takes long: each kernel is compiled seven times.
//   node scripts/pack_cuda.mjs [--out FOLDER] [--architectures LIST]
import { cpSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import { ScriptError, buildFolder, hasCommand, main, root, run } from './checkout.mjs';
import { cudaToolkit } from './cuda_toolkit.mjs';

const maxPackedBytes = 150e6;

function build(architectures) {
  const folder = path.join(buildFolder, 'cuda_release');
  const { options, env } = cudaToolkit();
  const wanted = ['LOWRANK_CUDA=ON', 'LOWRANK_C_LIBRARY=OFF', ...options];
  const configure = [...wanted, `LOWRANK_CUDA_ARCHITECTURES=${architectures}`];
  const generator = hasCommand('ninja') ? ['-GNinja'] : [];
  const flags = configure.map((option) => `-D${option}`);
  run('cmake', ['-S', root, '-B', folder, ...generator, ...flags], { capture: true, env });
  const jobs = String(os.availableParallelism());
  const target = ['--target', 'lowrank_cuda', '--parallel', jobs];
  run('cmake', ['--build', folder, ...target], { capture: true, env });
  return path.join(folder, 'liblowrank_cuda.so');
}

await main(() => {
  const { values } = parseArgs({
    options: {
      out: { type: 'string', default: path.join(buildFolder, 'packages') },
      architectures: { type: 'string', default: 'release' },
    },
  });
  const folder = path.join(root, 'npm', 'linux-x64-cuda');
  const readVersion = (file) => JSON.parse(readFileSync(path.join(file, 'package.json'))).version;
  if (readVersion(folder) !== readVersion(root))
    throw new ScriptError(`npm/linux-x64-cuda isn't at version ${readVersion(root)}`);
  const library = build(values.architectures);
  const place = path.join(folder, 'lib');
  rmSync(place, { recursive: true, force: true });
  mkdirSync(place);
  cpSync(library, path.join(place, 'liblowrank_cuda.so'));
  run('strip', [path.join(place, 'liblowrank_cuda.so')]);

  const out = path.resolve(values.out);
  mkdirSync(out, { recursive: true });
  const packing = ['pack', '--json', '--ignore-scripts', '--pack-destination', out];
  const packed = JSON.parse(run('npm', packing, { capture: true, cwd: folder }).stdout);
  const { filename } = (Array.isArray(packed) ? packed : Object.values(packed))[0];
  const file = path.join(out, filename);
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  const { size } = statSync(file);
  console.log(`${path.relative(process.cwd(), file)}: ${megabytes(size)} MB`);
  if (size > maxPackedBytes)
    throw new ScriptError(`the package is larger than ${megabytes(maxPackedBytes)} MB`);
});
