// An example as people can read it: text with what is trained set apart.
import type { Tokenizer } from '../tokenizer.js';

export interface Segment {
  text: string;
  trained: boolean;
  weight: number;
  /** Positions of its tokens, [start, end). */
  start: number;
  end: number;
}

/**
 * The text of an example, cut where training begins or ends. Without a tokenizer the text is the ids. A
 * trained token may end inside a character (bytes of an emoji); the cut then lies behind that character.
 */
export async function segments(
  example: { inputIds: ArrayLike<number>; labels: ArrayLike<number>; weights?: ArrayLike<number> },
  tokenizer?: Tokenizer,
): Promise<Segment[]> {
  const { inputIds, labels, weights } = example;
  const weightOf = (i: number): number => (labels[i]! < 0 ? 0 : (weights?.[i] ?? 1));
  const runs: Segment[] = [];
  for (let i = 0; i < inputIds.length; i++) {
    const weight = weightOf(i);
    const last = runs.at(-1);
    if (last && last.weight === weight) last.end = i + 1;
    else runs.push({ text: '', trained: weight > 0, weight, start: i, end: i + 1 });
  }
  const ids = Array.from(inputIds);
  if (!tokenizer) {
    for (const run of runs) run.text = `${ids.slice(run.start, run.end).join(' ')} `;
    return runs;
  }
  // Each run is what the text grows by: decoders treat the first token of a text in a way of their own.
  let before = '';
  for (const run of runs) {
    const now = await tokenizer.decode(ids.slice(0, run.end));
    run.text = now.startsWith(before)
      ? now.slice(before.length)
      : await tokenizer.decode(ids.slice(run.start, run.end));
    before = now;
  }
  return runs;
}

/** For error messages, without colour: trained text in double square brackets. */
export async function describeExample(
  example: Parameters<typeof segments>[0],
  tokenizer?: Tokenizer,
  limit = 1200,
): Promise<string> {
  const parts = await segments(example, tokenizer);
  const text = parts.map(({ text, trained }) => (trained ? `[[${text}]]` : text)).join('');
  return text.length > limit ? `${text.slice(0, limit)}...` : text;
}
