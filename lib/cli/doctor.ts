// `lowrank doctor`: what this machine offers, what would be used, and what is missing.

import os from 'node:os';

import type { Command } from 'commander';
import pc from 'picocolors';

import { describeError } from '../errors.js';
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
  const device = addon.describeDevice({ device: 'cpu' });
  out.push({
    name: 'cpu',
    ok: true,
    text: `${os.cpus()[0]?.model ?? device.name}: ${device.isa}, ${device.threads} threads (one per physical core)`,
  });
  const memory = addon.memory();
  out.push({ name: 'memory', ok: true, text: `${formatBytes(memory.availableBytes)} available` });
  for (const backend of addon.listBackends())
    if (backend.name !== 'cpu')
      out.push({
        name: backend.name,
        ok: backend.available,
        text: backend.available ? 'available' : `not available: ${backend.message}`,
      });
  return out;
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
