// `--config FILE`: the same names as the flags, in YAML or JSON; kebab, snake and camel case are the
// same name. An unknown name is an error with its line and a suggestion.

import { readFile } from 'node:fs/promises';

import { LineCounter, isMap, isScalar, parseDocument } from 'yaml';

import { LowrankError } from '../errors.js';
import { camel, kebab } from './flags.js';

export interface ConfigFile {
  values: Record<string, unknown>;
  /** `file:line:column` of a key. */
  place: (key: string) => string | undefined;
}

export async function readConfigFile(path: string, known: string[]): Promise<ConfigFile> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (cause) {
    throw new LowrankError('ERR_LOWRANK_IO', `cannot read: ${(cause as Error).message}`, {
      where: path,
    });
  }
  const lines = new LineCounter();
  // JSON is a subset of YAML, so one reader with positions serves both.
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const at = (offset: number | undefined) => {
    const { line, col } = lines.linePos(offset ?? 0);
    return `${path}:${line}:${col}`;
  };
  const problem = document.errors[0];
  if (problem)
    throw new LowrankError('ERR_LOWRANK_INVALID_FILE', problem.message, {
      where: at(problem.pos[0]),
    });
  if (document.contents === null) return { values: {}, place: () => undefined };
  if (!isMap(document.contents))
    throw new LowrankError('ERR_LOWRANK_INVALID_FILE', 'expected names with values', {
      where: path,
    });

  const values: Record<string, unknown> = {};
  const places = new Map<string, string>();
  for (const pair of document.contents.items) {
    const written = isScalar(pair.key) ? String(pair.key.value) : '';
    const where = at(isScalar(pair.key) ? pair.key.range?.[0] : undefined);
    const key = camel(written);
    // The schema's own pointer, which editors use.
    if (written === '$schema') continue;
    if (!known.includes(key)) {
      const near = suggest(key, known);
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', `unknown option '${written}'`, {
        where,
        hint: near ? `did you mean '${kebab(near)}'?` : 'see lowrank train --help',
      });
    }
    if (key in values)
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', `'${written}' stands twice`, {
        where,
      });
    values[key] = (document.toJS() as Record<string, unknown>)[written];
    places.set(key, where);
  }
  return { values, place: (key) => places.get(key) };
}

/** The known name nearest in edits, when it is near enough to be a slip. */
export function suggest(name: string, known: string[]): string | undefined {
  let best: string | undefined;
  let distance = Math.max(2, Math.floor(name.length * 0.4)) + 1;
  for (const candidate of known) {
    const d = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (d < distance) {
      distance = d;
      best = candidate;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next.push(
        Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)),
      );
    row = next;
  }
  return row[b.length]!;
}
