// run.json: what reproduces a run. Options after defaults, versions, hashes of inputs, hardware.

import { createHash } from 'node:crypto';
import { open, readdir, stat } from 'node:fs/promises';
import os from 'node:os';
import { join } from 'node:path';

import type { NativeModelInfo } from '../native/addon.js';
import { loadAddon } from '../native/load_addon.js';

const WHOLE_FILE_LIMIT = 64 * 1024 * 1024;
const SAMPLES = 64;
const SAMPLE_BYTES = 1024 * 1024;

/**
 * `sha256:` of a file, or, above 64 MB, `sha256-sampled:` of its size and 64 evenly spaced megabytes:
 * enough to tell two models apart without reading tens of gigabytes before the first step.
 */
export async function hashFile(path: string): Promise<string> {
  const handle = await open(path, 'r');
  try {
    const { size } = await handle.stat();
    const hash = createHash('sha256');
    const buffer = Buffer.alloc(SAMPLE_BYTES);
    if (size <= WHOLE_FILE_LIMIT) {
      for (let at = 0; at < size;) {
        const { bytesRead } = await handle.read(buffer, 0, SAMPLE_BYTES, at);
        if (bytesRead === 0) break;
        hash.update(buffer.subarray(0, bytesRead));
        at += bytesRead;
      }
      return `sha256:${hash.digest('hex')}`;
    }
    hash.update(String(size));
    for (let i = 0; i < SAMPLES; i++) {
      const at = Math.floor(((size - SAMPLE_BYTES) * i) / (SAMPLES - 1));
      const { bytesRead } = await handle.read(buffer, 0, SAMPLE_BYTES, at);
      hash.update(buffer.subarray(0, bytesRead));
    }
    return `sha256-sampled:${hash.digest('hex')}`;
  } finally {
    await handle.close();
  }
}

/** Hashes of a file, or of the files directly inside a folder, by name. */
export async function hashInputs(path: string): Promise<Record<string, string>> {
  const info = await stat(path);
  if (!info.isDirectory()) return { [path]: await hashFile(path) };
  const entries = await readdir(path, { withFileTypes: true });
  const names = entries
    .filter((entry) => entry.isFile() || entry.isSymbolicLink())
    .map((entry) => entry.name)
    .filter((name) => !name.startsWith('.'))
    .sort();
  const out: Record<string, string> = {};
  for (const name of names) out[name] = await hashFile(join(path, name));
  return out;
}

export interface ManifestInput {
  options: object;
  model: NativeModelInfo;
  modelFiles: Record<string, string>;
  dataFiles: Record<string, string>;
  dataReport: unknown;
}

export function createManifest(input: ManifestInput): Record<string, unknown> {
  const addon = loadAddon();
  return {
    format: 1,
    created: new Date().toISOString(),
    options: input.options,
    versions: { lowrank: addon.version, node: process.version },
    model: input.model,
    hashes: { model: input.modelFiles, data: input.dataFiles },
    data: input.dataReport,
    hardware: {
      platform: `${process.platform}-${process.arch}`,
      cpu: os.cpus()[0]?.model ?? 'unknown',
      isa: input.model.isa,
      memory_bytes: os.totalmem(),
    },
  };
}
