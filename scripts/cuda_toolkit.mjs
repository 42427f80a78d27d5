// The CUDA compiler: the system's, or NVIDIA's wheels in a folder of the build (270 MB), which pip
// installs once. Returns what CMake needs to use it.
import { existsSync } from 'node:fs';
import path from 'node:path';

import { ScriptError, buildFolder, hasCommand, run } from './checkout.mjs';

const version = '13.0.*';
const wheels = ['nvidia-cuda-nvcc', 'nvidia-cuda-runtime', 'nvidia-cuda-cccl'];

/** { options, env } for CMake's configuration and build. */
export function cudaToolkit() {
  if (hasCommand('nvcc')) return { options: [], env: {} };
  const folder = path.join(buildFolder, 'cuda_toolkit');
  const toolkit = path.join(folder, 'nvidia', 'cu13');
  const nvcc = path.join(toolkit, 'bin', 'nvcc');
  if (!existsSync(nvcc)) {
    if (!hasCommand('python3')) throw new ScriptError('missing: nvcc, or python3 with pip');
    const pip = ['-m', 'pip', 'install', '--quiet', '--no-input', '--target', folder];
    run('python3', [...pip, ...wheels.map((name) => `${name}==${version}`)], { capture: true });
  }
  return {
    options: [`CMAKE_CUDA_COMPILER=${nvcc}`],
    env: { LIBRARY_PATH: path.join(toolkit, 'lib') }, // the wheels have no lib64
  };
}
