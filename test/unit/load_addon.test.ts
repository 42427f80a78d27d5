import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { describe, expect, it } from 'vitest';

import { platformPackage } from '../../lib/native/load_addon.js';

const root = path.resolve(import.meta.dirname, '../..');

describe('loading the engine', () => {
  it('LOWRANK_BINARY is tried alone, and the error names it', () => {
    const program = `
      import { loadAddon } from './dist/native/load_addon.js';
      try { loadAddon(); } catch (error) { console.log(JSON.stringify({ ...error, message: error.message })); }`;
    const output = execFileSync(process.execPath, ['--input-type=module', '-e', program], {
      cwd: root,
      env: { ...process.env, LOWRANK_BINARY: './nothing.node' },
      encoding: 'utf8',
    });
    const error = JSON.parse(output) as { code: string; message: string; hint: string };
    expect(error.code).toBe('ERR_LOWRANK_BINARY_NOT_FOUND');
    expect(error.message).toContain('LOWRANK_BINARY=./nothing.node');
    expect(error.message).not.toContain('@lowrank/');
    expect(error.hint).toContain('LOWRANK_BINARY');
  });

  it('names the package of this platform', () => {
    expect(platformPackage()).toMatch(/^@lowrank\/\w+-\w+(-gnu|-musl)?$/);
  });
});
