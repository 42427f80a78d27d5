// Formats the sources, or checks them: `node scripts/format.mjs [--write]`. TypeScript with prettier,
// C++ with clang-format 14 (skipped, and said so, where it isn't installed).
import { existsSync } from 'node:fs';
import path from 'node:path';

import { hasCommand, root, run, tryRun } from './checkout.mjs';

const write = process.argv.includes('--write');
// Files git knows, or would take.
const listed = run('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  capture: true,
});
const files = listed.stdout.split('\n').filter((file) => file && existsSync(path.join(root, file)));

let failed = false;
const scripts = files.filter((file) => /\.(ts|mts|mjs|js|json)$/.test(file));
const prettier = path.join(root, 'node_modules', '.bin', 'prettier');
failed ||=
  tryRun(prettier, [write ? '--write' : '--check', '--log-level', 'warn', ...scripts]).status !== 0;

const clangFormat = ['clang-format-14', 'clang-format'].find(hasCommand);
const sources = files.filter((file) => /\.(h|cc|cu|cuh|inl)$/.test(file));
if (!clangFormat) {
  console.log("format: C++ SKIPPED, clang-format isn't installed");
} else {
  const mode = write ? ['-i'] : ['--dry-run', '-Werror'];
  failed = tryRun(clangFormat, [...mode, ...sources]).status !== 0 || failed;
}
process.exitCode = failed ? 1 : 0;
