// The npm package that carries the CUDA plug-in: opt-in, because it is large.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(import.meta.url);

/** Its name; undefined where there is none for this machine. */
export function cudaPackage(): string | undefined {
  const here = `${process.platform}-${process.arch}`;
  return here === 'linux-x64' ? `@lowrank/${here}-cuda` : undefined;
}

/** The folder of the installed package that holds the plug-in. */
export function cudaFolder(): string | undefined {
  const name = cudaPackage();
  if (name === undefined) return undefined;
  try {
    return path.join(path.dirname(require.resolve(`${name}/package.json`)), 'lib');
  } catch {
    return undefined;
  }
}
