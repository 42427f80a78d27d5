// A checkpoint: PEFT adapter (or model weights in f32), optimizer states and the position of the run.
// Enough for the following losses to be the same bits as in a run that was never stopped.

import { copyFile, readFile, readdir } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';

import { z } from 'zod';

import { saveAdapterFolder, type TrainingSummary } from '../adapter_folder.js';
import { LowrankError } from '../errors.js';
import type { NativeAdapter, NativeModel, NativeSession } from '../native/addon.js';
import { writeFileAtomic, writeFolderAtomic } from './atomic.js';
import type { RunFolder } from './run_folder.js';

const stateSchema = z.object({
  format: z.literal(1),
  step: z.number().int().nonnegative(),
  position: z.object({
    epoch: z.number().int().nonnegative(),
    batch: z.number().int().nonnegative(),
  }),
  tokens: z.number(),
  label_tokens: z.number(),
  // What must be the same for the continuation to be the same run.
  fingerprint: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
  early_stopping: z.object({
    bestLoss: z.number().nullable(),
    bestStep: z.number().nullable(),
    evaluationsWithoutImprovement: z.number(),
  }),
});
export type CheckpointState = z.infer<typeof stateSchema>;

export interface CheckpointSource {
  model: NativeModel;
  adapter: NativeAdapter | null;
  session: NativeSession;
  baseModelName: string;
  training: TrainingSummary;
}

/** Writes `checkpoints/step-N`, complete or absent; a checkpoint that exists already is left alone. */
export async function writeCheckpoint(
  run: RunFolder,
  source: CheckpointSource,
  state: CheckpointState,
): Promise<string> {
  const path = run.checkpointPath(state.step);
  if (!(await run.checkpointSteps()).includes(state.step)) {
    await writeFolderAtomic(path, async (temporary) => {
      if (source.adapter)
        await saveAdapterFolder(source.adapter, temporary, source.baseModelName, source.training);
      else {
        await source.model.save(temporary, 'f32');
        await copyTokenizerFiles(source.baseModelName, temporary);
      }
      await source.session.saveState(join(temporary, 'optimizer.safetensors'));
      await writeFileAtomic(join(temporary, 'state.json'), JSON.stringify(state, null, 2) + '\n');
    });
  }
  await run.writePointer('last', { step: state.step, checkpoint: `checkpoints/${basename(path)}` });
  return path;
}

/** `last`, or a checkpoint folder, as an absolute path; null when `last` finds none. */
export async function findCheckpoint(run: RunFolder, which: string): Promise<string | null> {
  if (which !== 'last') return resolve(which);
  const step = (await run.checkpointSteps()).at(-1);
  return step === undefined ? null : resolve(run.checkpointPath(step));
}

export async function readCheckpointState(path: string): Promise<CheckpointState> {
  const file = join(path, 'state.json');
  try {
    return stateSchema.parse(JSON.parse(await readFile(file, 'utf8')));
  } catch (cause) {
    throw new LowrankError('ERR_LOWRANK_INVALID_FILE', 'not a checkpoint of this version', {
      where: file,
      hint: 'give a folder such as runs/name/checkpoints/step-100',
      cause,
    });
  }
}

/** Refuses to continue a run with other settings, naming each that differs. */
export function checkFingerprint(
  state: CheckpointState,
  fingerprint: CheckpointState['fingerprint'],
  where: string,
): void {
  const differing = Object.keys({ ...state.fingerprint, ...fingerprint }).filter(
    (key) => state.fingerprint[key] !== fingerprint[key],
  );
  if (differing.length === 0) return;
  const list = differing
    .map((key) => `${key} was ${String(state.fingerprint[key])}, is ${String(fingerprint[key])}`)
    .join('; ');
  throw new LowrankError(
    'ERR_LOWRANK_INVALID_ARGUMENT',
    `the checkpoint is of another run: ${list}`,
    {
      where,
      hint: 'resume with the settings and data of the original run',
    },
  );
}

const TOKENIZER_FILE =
  /^(tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt|chat_template\..*|generation_config\.json)$/;

/** Copies what generation needs beside the weights. */
export async function copyTokenizerFiles(from: string, to: string): Promise<void> {
  if (!from) return;
  for (const name of await readdir(from))
    if (TOKENIZER_FILE.test(name)) await copyFile(join(from, name), join(to, name));
}
