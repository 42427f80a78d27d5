// The addon's life cycle, each case in a process of its own (child.mjs).
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { loadBuild, writeTinyModel } from '../support/tiny_model.mjs';

const child = fileURLToPath(new URL('child.mjs', import.meta.url));
let folder: string;

beforeAll(async () => {
  const parent = await mkdtemp(path.join(os.tmpdir(), 'lowrank-lifecycle-'));
  folder = await writeTinyModel(loadBuild(), path.join(parent, 'model'));
});
afterAll(() => rm(path.dirname(folder), { recursive: true, force: true }));

interface Outcome {
  code: number | null;
  signal: NodeJS.Signals | null;
  stderr: string;
  report: any;
}

function runCase(name: string): Promise<Outcome> {
  const args = ['--expose-gc', child, name, folder];
  return new Promise((resolve) => {
    const process_ = execFile(process.execPath, args, { timeout: 100_000 }, (_, stdout, stderr) => {
      const line = stdout.trim().split('\n').at(-1) ?? '';
      const report = line.startsWith('{') ? JSON.parse(line) : null;
      resolve({ code: process_.exitCode, signal: process_.signalCode, stderr, report });
    });
  });
}

async function successful(name: string): Promise<any> {
  const outcome = await runCase(name);
  expect(outcome.stderr).toBe('');
  expect(outcome).toMatchObject({ code: 0, signal: null });
  return outcome.report;
}

describe('life cycle of the addon', () => {
  it('a thousand rounds of load, train and dispose grow neither memory nor threads', async () => {
    const { before, after } = await successful('rounds');
    expect(after.threads).toBeLessThanOrEqual(before.threads);
    // 800 rounds that leak a session each would be hundreds of MB; V8's own heap moves by a few.
    expect((after.resident - before.resident) / 2 ** 20).toBeLessThan(24);
  });

  it('frees what V8 collects', async () => {
    const { first, most, last } = await successful('collected');
    expect(most).toBeGreaterThan(first);
    expect(last).toBeLessThanOrEqual(first);
  });

  it('dispose() waits for work in flight; later calls say so', async () => {
    expect(await successful('disposal')).toEqual({
      finite: true,
      late: 'ERR_LOWRANK_DISPOSED',
      after: 'ERR_LOWRANK_DISPOSED',
      sync: 'ERR_LOWRANK_DISPOSED',
    });
  });

  it('survives worker.terminate() in the middle of training', async () => {
    expect((await successful('terminate')).loss).toBeGreaterThan(0);
  });

  it('trains in several worker threads at once, with the same bits', async () => {
    const [first, ...others] = (await successful('workers')).results;
    expect(first).toHaveLength(5);
    for (const other of others) expect(other).toEqual(first);
  });

  it('runs two trainers at once, each with the bits it has alone', async () => {
    const { alone, together } = await successful('together');
    expect(alone[4]).toBeLessThan(alone[0]);
    expect(together).toEqual([alone, alone]);
  });

  it('process.exit() while training keeps its code', async () => {
    expect(await runCase('exit')).toMatchObject({ code: 7, signal: null, stderr: '' });
  });

  it('an uncaught exception while training ends with its message', async () => {
    const outcome = await runCase('uncaught');
    expect(outcome).toMatchObject({ code: 1, signal: null });
    expect(outcome.stderr).toContain('thrown on purpose');
  });

  it('SIGTERM while training ends the process', async () => {
    expect(await runCase('signal')).toMatchObject({ signal: 'SIGTERM', stderr: '' });
  });

  it('an abort flag stops a step and changes nothing', async () => {
    const { aborted, after } = await successful('abort');
    expect(aborted).toBe(true);
    expect(after).toBe((await successful('together')).alone[0]);
  });

  it('an abort flag stops loading', async () => {
    expect(await successful('aborted_load')).toEqual({ code: 'ERR_LOWRANK_ABORTED' });
  });

  it("leaves libuv's pool free", async () => {
    expect(await successful('pool')).toEqual({ done: 20, stillRunning: true });
  });
});
