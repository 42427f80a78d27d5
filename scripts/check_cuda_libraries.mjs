// Neither the addon nor the CUDA plug-in may need a CUDA library to load: the addon has none of it,
// the plug-in has the runtime inside and looks the driver up. Reads what `--cuda` built.
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';

import { ScriptError, buildFolder, main, run } from './checkout.mjs';

const cudaLibrary = /\[(lib(?:cuda|cudart|cublas|nv)\S*)\]/g;

function librariesOf(folder, pattern) {
  const entries = existsSync(folder) ? readdirSync(folder) : [];
  return entries.filter((name) => pattern.test(name)).map((name) => path.join(folder, name));
}

await main(() => {
  const plugin = librariesOf(path.join(buildFolder, 'cuda'), /^liblowrank_cuda\.so$/);
  const addons = [buildFolder, path.join(buildFolder, 'Release')].flatMap((folder) =>
    librariesOf(folder, /\.node$/),
  );
  if (plugin.length === 0) throw new ScriptError("the CUDA plug-in isn't built");
  if (addons.length === 0) throw new ScriptError("the addon isn't built");
  for (const file of [...plugin, ...addons]) {
    const { stdout } = run('readelf', ['-d', file], { capture: true });
    const needed = [...stdout.matchAll(cudaLibrary)].map((match) => match[1]);
    console.log(
      `${path.relative(buildFolder, file)}: needs ${needed.join(', ') || 'no CUDA library'}`,
    );
    if (needed.length > 0) process.exitCode = 1;
  }
});
