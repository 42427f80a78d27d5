// What the other scripts share: paths, running commands, readable failures. Plain Node: these
// scripts run on a fresh clone, before anything is installed.
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
export const buildFolder = path.join(root, 'build');
export const addonFile = path.join(buildFolder, 'Release', 'lowrank.node');

export class ScriptError extends Error {}

/** Runs a command in the checkout; throws ScriptError when it fails. */
export function run(command, args, options = {}) {
  const result = tryRun(command, args, options);
  if (result.error) throw new ScriptError(`cannot run ${command}: ${result.error.message}`);
  if (result.status !== 0) {
    const output = options.capture ? `\n${result.stdout}${result.stderr}` : '';
    const status = result.signal ?? result.status;
    throw new ScriptError(`${command} ${args.join(' ')} failed (${status})${output}`);
  }
  return result;
}

export function tryRun(command, args, { capture = false, env = {}, cwd = root } = {}) {
  return spawnSync(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: capture ? ['ignore', 'pipe', 'pipe'] : 'inherit',
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
}

export function hasCommand(command) {
  return tryRun(command, ['--version'], { capture: true }).status === 0;
}

/** Runs a script's main function with a readable failure. */
export async function main(body) {
  try {
    await body();
  } catch (error) {
    console.error(error instanceof ScriptError ? `error: ${error.message}` : error);
    process.exitCode = 1;
  }
}
