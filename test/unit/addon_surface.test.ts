// The .node file exports exactly what lib/native/addon.ts declares.
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import type { LowrankErrorCode } from '../../lib/errors.js';
import type { NativeAddon } from '../../lib/native/addon.js';
import { loadBuild } from '../support/tiny_model.mjs';

const addon = loadBuild() as NativeAddon & Record<string, unknown>;
const source = readFileSync(new URL('../../lib/native/addon.ts', import.meta.url), 'utf8');

/** Names of an interface's members: lines with two spaces of indentation. */
function members(name: string): string[] {
  const start = source.indexOf(`export interface ${name} {`);
  const body = source.slice(start, source.indexOf('\n}', start));
  return [...body.matchAll(/^ {2}(\w+)[?(:]/gm)].map((match) => match[1]!).sort();
}

const methods = (prototype: object): string[] =>
  Object.getOwnPropertyNames(prototype)
    .filter((name) => name !== 'constructor')
    .sort();

describe('surface of the addon', () => {
  it('NativeAddon', () => {
    expect(Object.keys(addon).sort()).toEqual(members('NativeAddon'));
  });

  it('NativeKernels', () => {
    expect(Object.keys(addon.kernels).sort()).toEqual(members('NativeKernels'));
  });

  it('NativeAbortFlag', () => {
    const flag = addon.createAbortFlag();
    expect(methods(Object.getPrototypeOf(flag))).toEqual(members('NativeAbortFlag'));
  });

  it('classes cannot be constructed from JavaScript', () => {
    const Flag = addon.createAbortFlag().constructor as new () => unknown;
    expect(() => new Flag()).toThrow(TypeError);
  });

  it('methods refuse a receiver of another kind', () => {
    const { abort } = addon.createAbortFlag();
    expect(() => abort.call({} as never)).toThrow('Illegal invocation');
  });

  it('error codes of the engine are those of LowrankError', () => {
    const errors = readFileSync(new URL('../../lib/errors.ts', import.meta.url), 'utf8');
    const codes = new Set([...errors.matchAll(/'(ERR_LOWRANK_\w+)'/g)].map((match) => match[1]));
    const engine = readFileSync(new URL('../../native/core/error.cc', import.meta.url), 'utf8');
    const names = [...engine.matchAll(/return "(\w+)"/g)].map((match) => `ERR_LOWRANK_${match[1]}`);
    expect(names.length).toBeGreaterThan(5);
    for (const name of names) expect(codes).toContain(name);
    const code: LowrankErrorCode = 'ERR_LOWRANK_INTERNAL';
    expect(codes).toContain(code);
  });

  it('an unknown option is an error that names the known ones', async () => {
    const options = { compute: 'f32', quantization: 'none', trainable: false, colour: 'red' };
    await expect(
      addon.loadModel({ device: 'cpu' }, 'nowhere', options as never),
    ).rejects.toMatchObject({
      code: 'ERR_LOWRANK_INVALID_ARGUMENT',
      message: '"colour" is not an option',
      hint: 'known: compute, quantization, trainable, maxLength, copyWeights',
    });
  });
});
