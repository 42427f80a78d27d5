// Files and folders that are complete or absent, whatever happens in between.

import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';

import { LowrankError } from '../errors.js';

// Ours, and those of the engine (a folder's or a file's).
const TEMPORARY = /\.tmp-(?:\d+-)?[0-9A-Za-z]{6,12}$/;

function temporaryName(path: string): string {
  return join(dirname(path), `.${basename(path)}.tmp-${randomBytes(6).toString('hex')}`);
}

/** Flushes a folder's entries, so that a rename inside it survives a power cut. */
export async function syncDirectory(path: string): Promise<void> {
  // Windows can't open a folder for flushing; there the rename is as durable as the system makes it.
  const handle = await open(path, 'r').catch(() => null);
  if (!handle) return;
  try {
    await handle.sync().catch(() => undefined);
  } finally {
    await handle.close();
  }
}

/** Writes a file so that a reader sees the old content or all of the new one. */
export async function writeFileAtomic(path: string, content: string | Uint8Array): Promise<void> {
  const temporary = temporaryName(path);
  try {
    const handle = await open(temporary, 'wx');
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw new LowrankError('ERR_LOWRANK_IO', `cannot write: ${(cause as Error).message}`, {
      where: path,
      cause,
    });
  }
  await syncDirectory(dirname(path));
}

/** Fills a folder under a temporary name and renames it; `path` must not exist. */
export async function writeFolderAtomic(
  path: string,
  fill: (temporary: string) => Promise<void>,
): Promise<void> {
  const temporary = temporaryName(path);
  await mkdir(temporary, { recursive: true });
  try {
    await fill(temporary);
    await syncDirectory(temporary);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { recursive: true, force: true });
    throw error;
  }
  await syncDirectory(dirname(path));
}

/** Removes what a killed process left under temporary names. */
export async function removeTemporary(folder: string): Promise<void> {
  const names = await readdir(folder).catch(() => [] as string[]);
  await Promise.all(
    names
      .filter((name) => TEMPORARY.test(name))
      .map((name) => rm(join(folder, name), { recursive: true, force: true })),
  );
}
