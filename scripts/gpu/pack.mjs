// Packs what a machine without network needs to check the CUDA backend: this Node, the packages it
// loads at run time, the compiled TypeScript and the addon, as one archive in build/gpu-pack.
//   node scripts/gpu/pack.mjs
import { cpSync, mkdirSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';

import { ScriptError, addonFile, buildFolder, main, root, run, tryRun } from '../checkout.mjs';
import { setUp } from '../setup.mjs';

const LIMIT = 48 << 20; // with the checkout itself (11 MB) still an easy upload

function runtimePackages() {
  const args = ['ls', '--omit=dev', '--all', '--parseable'];
  const { stdout } = tryRun('npm', args, { capture: true });
  const folders = stdout.split('\n').map((line) => path.relative(root, line));
  return folders.filter((folder) => folder.startsWith('node_modules'));
}

await main(async () => {
  setUp();
  const folder = path.join(buildFolder, 'gpu-pack');
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const binary = path.join(folder, 'node');
  cpSync(process.execPath, binary, { dereference: true });
  // Symbols are a tenth of it; a machine without strip carries them.
  tryRun('strip', [binary], { capture: true });
  const archive = path.join(folder, 'run-time.tar.xz');
  const parts = ['dist', path.relative(root, addonFile), ...runtimePackages()];
  const others = ['android', 'darwin', 'win32', 'arm', 'musl'];
  run('tar', [
    ...['-cJhf', archive, '-C', root],
    ...others.map((platform) => `--exclude=tokenizers.*${platform}*.node`),
    ...['--transform=s,^build/gpu-pack/node$,node,', path.relative(root, binary), ...parts],
  ]);
  rmSync(binary);
  const { size } = statSync(archive);
  console.log(`${path.relative(root, archive)}: ${(size / (1 << 20)).toFixed(1)} MiB`);
  if (size > LIMIT) throw new ScriptError(`the archive is larger than ${LIMIT >> 20} MiB`);
});
