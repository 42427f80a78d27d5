// Prints what of cuda/ the execution model doesn't run, so that only a GPU can show it: files that
// the model's build leaves out, and in the others what stands behind a condition on nvcc.
import { readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';

import { main, root } from './checkout.mjs';

const folder = path.join(root, 'cuda');
const nvccOnly = /__CUDACC__|__CUDA_ARCH__|\basm\s+volatile|\bcuda[A-Z]\w+\s*\(/;
const kernel = /^LOWRANK_KERNEL\s+void\s+(\w+)/gm;

await main(() => {
  const files = readdirSync(folder, { recursive: true }).map(String).sort();
  const sources = files.filter((file) => /\.(cuh?|cc|h)$/.test(file));
  let kernels = 0;
  const found = [];
  for (const file of sources) {
    const text = readFileSync(path.join(folder, file), 'utf8');
    kernels += [...text.matchAll(kernel)].length;
    const whole = /nvcc|pinned_ring|entry/.test(file);
    const lines = text.split('\n').flatMap((line, i) => (nvccOnly.test(line) ? [i + 1] : []));
    if (whole) found.push(`${file}: not compiled for the model`);
    else if (lines.length > 0) found.push(`${file}: line ${lines.join(', ')}`);
  }
  console.log(`${kernels} kernels are compiled for the execution model too. Not run by it:`);
  for (const line of found) console.log(`  cuda/${line}`);
  console.log('  cuBLASLt itself: test/cuda/cublaslt_stub.cc stands in for it');
});
