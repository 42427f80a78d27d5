// `npm run bench -- NAME [options]`: runs one of the benches in this folder.
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { spawnSync } from 'node:child_process';

const folder = import.meta.dirname;
const names = readdirSync(folder)
  .filter((file) => file.endsWith('.mjs') && file !== 'run.mjs')
  .map((file) => file.slice(0, -4));
const [name, ...options] = process.argv.slice(2);
if (!names.includes(name)) {
  console.error(`usage: npm run bench -- NAME [options]\nNAME: ${names.join(', ')}`);
  process.exitCode = 1;
} else {
  const { status } = spawnSync(process.execPath, [path.join(folder, `${name}.mjs`), ...options], {
    stdio: 'inherit',
  });
  process.exitCode = status ?? 1;
}
