// Objects compiled with instruction-set flags must have no weak symbols: the linker keeps one copy of
// an inline function, and a copy with wide instructions would crash older processors. Reads
// build/compile_commands.json.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';

import { buildFolder, main, root, tryRun, ScriptError } from './checkout.mjs';

// -m flags that select instructions (not -m64, -mtune=...).
const isaFlag = /(?:^|\s)(-m(?:avx|amx|fma|f16c|bmi|sse4|arch=)\S*|-march=\S+)/;

await main(() => {
  const file = path.join(buildFolder, 'compile_commands.json');
  if (!existsSync(file)) throw new ScriptError('build first: npm run build:native');
  const commands = JSON.parse(readFileSync(file, 'utf8'));
  let checked = 0;
  let bad = 0;
  for (const { command, directory, file: source } of commands) {
    const relative = path.relative(root, source);
    if (!relative.startsWith('native') || !isaFlag.test(command)) continue;
    const object = path.resolve(directory, /\s-o\s+(\S+)/.exec(command)[1]);
    if (!existsSync(object)) throw new ScriptError(`${relative} isn't built`);
    const result = tryRun('nm', ['--defined-only', '-C', object], { capture: true });
    if (result.status !== 0) throw new ScriptError(`nm failed: ${result.stderr}`);
    checked++;
    // Type letters of weak and unique symbols; typeinfo of local lambdas doesn't occur in kernels.
    const weak = result.stdout.split('\n').filter((line) => /^\S+ [WVuwv] /.test(line));
    for (const line of weak) console.log(`${relative}: weak symbol ${line.slice(19)}`);
    bad += weak.length;
  }
  console.log(`weak symbols: ${checked} objects with instruction-set flags, ${bad} weak symbols`);
  if (bad > 0) process.exitCode = 1;
});
