// `lowrank doctor`: what this machine offers, what would be used, and what is missing.

import os from 'node:os';

import type { Command } from 'commander';
import pc from 'picocolors';

import { describeError, fromNative } from '../errors.js';
import type { NativeAddon } from '../native/addon.js';
import { cudaFolder, cudaPackage } from '../native/cuda_package.js';
import { loadAddon } from '../native/load_addon.js';
import { formatBytes } from './progress.js';

interface Finding {
  name: string;
  ok: boolean;
  text: string;
}

function findings(): Finding[] {
  const out: Finding[] = [
    { name: 'node', ok: true, text: `${process.version} ${process.platform}-${process.arch}` },
  ];
  let addon;
  try {
    addon = loadAddon();
    out.push({ name: 'engine', ok: true, text: addon.version });
  } catch (error) {
    return [...out, { name: 'engine', ok: false, text: describeError(error) }];
  }
  const cpu = addon.describeDevice({ device: 'cpu' });
  out.push({
    name: 'cpu',
    ok: true,
    text: `${os.cpus()[0]?.model ?? cpu.name}: ${cpu.isa}, ${cpu.threads} threads (one per physical core)`,
  });
  const memory = addon.memory();
  out.push({ name: 'memory', ok: true, text: `${formatBytes(memory.availableBytes)} available` });
  return [...out, ...cudaFindings(addon)];
}

/** One finding per GPU and one on what they lack, or one that says what CUDA lacks. */
function cudaFindings(addon: NativeAddon): Finding[] {
  const missing = (text: string): Finding[] => [{ name: 'cuda', ok: false, text }];
  const plugin = addon.listBackends().find((backend) => backend.name === 'cuda');
  if (!plugin?.available) return missing(pluginAdvice(plugin?.message ?? ''));
  const found: Finding[] = [];
  let lacking = '';
  for (let ordinal = 0; ; ordinal++) {
    const name = `cuda:${ordinal}`;
    try {
      const gpu = addon.describeDevice({ device: name });
      const memory = `${formatBytes(gpu.freeBytes)} of ${formatBytes(gpu.totalBytes)} free`;
      const library = gpu.library && `, ${gpu.library}`;
      found.push({ name, ok: true, text: `${gpu.name}: ${gpu.isa}, ${memory}${library}` });
      lacking ||= gpu.note;
    } catch (error) {
      // The first one says what is wrong; a later one is beyond the last GPU.
      const { message } = fromNative(error) as Error;
      if (found.length === 0) return missing(`not available: ${message}`);
      return lacking ? [...found, { name: 'cublaslt', ok: false, text: lacking }] : found;
    }
  }
}

function pluginAdvice(message: string): string {
  const folder = process.env.LOWRANK_PLUGIN_PATH;
  if (folder !== undefined) return `not available: ${message} (LOWRANK_PLUGIN_PATH is set)`;
  if (cudaFolder() !== undefined) return `not available: ${message}`;
  const name = cudaPackage();
  if (name === undefined) return 'not available: there is a CUDA plug-in for Linux on x64 only';
  return `not installed: npm install ${name}   (for an NVIDIA GPU; without one it isn't needed)`;
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('Show what this machine offers and what is missing.')
    .option('--json', 'print as JSON')
    .action((options: { json?: boolean }) => {
      const found = findings();
      if (options.json) process.stdout.write(JSON.stringify(found) + '\n');
      else
        for (const { name, ok, text } of found)
          process.stdout.write(
            `${ok ? pc.green('ok') : pc.yellow('--')} ${name.padEnd(8)} ${text}\n`,
          );
      if (found.some((finding) => finding.name === 'engine' && !finding.ok)) process.exitCode = 1;
    });
}
