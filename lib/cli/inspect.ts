// `lowrank inspect data|model|adapter`

import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';

import Table from 'cli-table3';
import type { Command } from 'commander';
import pc from 'picocolors';

import { LowrankError } from '../errors.js';
import { callSync } from '../native/call.js';
import { loadAddon } from '../native/load_addon.js';
import { inspectData } from './inspect_data.js';
import { formatBytes } from './progress.js';
import { stopOnSignals } from './signals.js';

interface TensorRow {
  file: string;
  name: string;
  dtype: string;
  shape: number[];
  bytes: number;
}

/** Headers of the safetensors files of a folder; no weights are read. */
async function readTensors(folder: string): Promise<TensorRow[]> {
  const names = (await readdir(folder).catch(() => [])).filter((name) =>
    name.endsWith('.safetensors'),
  );
  if (names.length === 0)
    throw new LowrankError('ERR_LOWRANK_INVALID_FILE', 'there is no safetensors file here', {
      where: folder,
      hint: 'give the folder of a model or an adapter',
    });
  return names.sort().flatMap((file) =>
    callSync(() => loadAddon().inspectSafetensors(join(folder, file))).tensors.map((tensor) => ({
      file,
      ...tensor,
    })),
  );
}

async function readJson(path: string): Promise<Record<string, unknown>> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  } catch (cause) {
    throw new LowrankError('ERR_LOWRANK_INVALID_FILE', `cannot read: ${(cause as Error).message}`, {
      where: path,
      cause,
    });
  }
}

function printTensors(tensors: TensorRow[], limit: number): void {
  const table = new Table({
    head: ['tensor', 'type', 'shape', 'size'],
    style: { head: [], border: [], compact: true },
  });
  for (const { name, dtype, shape, bytes } of tensors.slice(0, limit))
    table.push([name, dtype, shape.join(' x '), formatBytes(bytes)]);
  process.stdout.write(table.toString() + '\n');
  if (tensors.length > limit)
    process.stdout.write(pc.dim(`and ${tensors.length - limit} more (--tensors N shows N)\n`));
}

async function inspectFolder(
  folder: string,
  config: string,
  options: { json?: boolean; tensors?: string },
): Promise<void> {
  const [description, tensors] = [await readJson(join(folder, config)), await readTensors(folder)];
  const parameters = tensors.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const bytes = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0);
  if (options.json) {
    process.stdout.write(
      JSON.stringify({ config: description, parameters, bytes, tensors }) + '\n',
    );
    return;
  }
  const shown = Object.entries(description).filter(
    ([, value]) => value !== null && value !== false,
  );
  for (const [key, value] of shown)
    process.stdout.write(`${pc.dim(key.padEnd(28))}${JSON.stringify(value)}\n`);
  process.stdout.write(
    `${parameters.toLocaleString('en')} values in ${tensors.length} tensors, ${formatBytes(bytes)}\n`,
  );
  printTensors(tensors, Number(options.tensors ?? 12));
}

export function addInspect(program: Command): void {
  const inspect = program.command('inspect').description('Look at data, a model or an adapter.');
  inspect
    .command('data')
    .argument('<data...>', 'files or a folder')
    .description('Show text, tokens and mask of the first rows, and what the data holds.')
    .option('--model <folder>', 'model folder, for its tokenizer and chat template')
    .option('--chat-template <file>', "a chat template instead of the model's")
    .option('--rows <n>', 'rows shown', Number)
    .option('--max-length <n>', 'longest example in tokens', Number)
    .option('--cache-dir <folder>', 'folder of the tokenized cache')
    .option('--json', 'print one JSON object')
    .action(async (data: string[], options: Record<string, never>) => {
      const stop = stopOnSignals();
      try {
        const io = {
          write: (text: string) => void process.stdout.write(text),
          color: process.stdout.isTTY === true,
          signal: stop.signal,
        };
        process.exitCode = await inspectData(
          { data: data.length === 1 ? data[0]! : data, ...options },
          io,
        );
      } finally {
        stop.release();
      }
    });
  for (const [what, config] of [
    ['model', 'config.json'],
    ['adapter', 'adapter_config.json'],
  ] as const)
    inspect
      .command(what)
      .argument('<folder>', `${what} folder`)
      .description(
        `Show the configuration and tensors of ${what === 'model' ? 'a model' : 'an adapter'}; no weights are read.`,
      )
      .option('--tensors <n>', 'tensors shown')
      .option('--json', 'print one JSON object')
      .action((folder: string, options: { json?: boolean; tensors?: string }) =>
        inspectFolder(folder, config, options),
      );
}
