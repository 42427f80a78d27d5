// Rows to token ids with a label and a weight per token.
import { createHash } from 'node:crypto';
import { tokenWeights } from '../token_weights.js';
import type { ChatTemplate } from '../chat_template.js';
import { describeError } from '../errors.js';
import { Pause } from '../pause.js';
import type { Encoding, Tokenizer } from '../tokenizer.js';
import { RowError } from './row_error.js';
import type { Row } from './rows.js';

export const IGNORE = -100;

export interface TokenizedRow {
  inputIds: Int32Array;
  labels: Int32Array;
  /** Absent = all ones. */
  weights?: Float32Array;
  /** May go on in another example when too long. */
  splittable: boolean;
}

export interface TextTools {
  tokenizer?: Tokenizer;
  template?: ChatTemplate;
  templateVariables?: Record<string, unknown>;
}

/** A row's text with what of it is trained, ready to be encoded together with others. */
export interface PreparedText {
  text: string;
  /** Undefined: all of it. Positions in UTF-16 units. */
  spans?: { start: number; end: number; weight: number }[];
  /** Let the tokenizer write BOS, and end with EOS. Templates write their own. */
  complete: boolean;
  splittable: boolean;
}

/** The text of a row as the model will see it. Throws RowError when there is no way to write it. */
export function prepareText(row: Exclude<Row, { kind: 'tokens' }>, tools: TextTools): PreparedText {
  if (row.kind === 'text') return { text: row.text, complete: true, splittable: true };
  if (row.kind === 'completion') return completionText(row.prompt, row.completion);
  if (!tools.template) {
    if (row.alpaca) return completionText(row.alpaca.prompt, row.alpaca.completion);
    throw new RowError(
      'a chat needs a chat template, and the model folder has none. ' +
        'Give one with --chat-template FILE, or write the rows as "prompt" and "completion".',
    );
  }
  try {
    const rendered = tools.template.renderWithSpans(row.messages, {
      tools: row.tools,
      variables: { ...tools.templateVariables, ...row.variables },
    });
    return { text: rendered.text, spans: rendered.spans, complete: false, splittable: false };
  } catch (error) {
    throw new RowError(describeError(error));
  }
}

function completionText(prompt: string, completion: string): PreparedText {
  const text = prompt + completion;
  const spans = [{ start: prompt.length, end: text.length, weight: 1 }];
  return { text, spans, complete: true, splittable: false };
}

/** Encodes texts on the tokenizer's threads; results in order. */
export async function encodeTexts(
  texts: readonly PreparedText[],
  tokenizer: Tokenizer,
): Promise<TokenizedRow[]> {
  const results: TokenizedRow[] = Array.from({ length: texts.length });
  const pause = new Pause();
  // Texts alike are encoded together: offsets cost more than the encoding and only masks need them.
  for (const complete of [false, true]) {
    for (const offsets of [false, true]) {
      const wanted = texts.flatMap((text, i) =>
        text.complete === complete && (text.spans !== undefined) === offsets ? [i] : [],
      );
      if (wanted.length === 0) continue;
      const encodings = await tokenizer.encodeBatch(
        wanted.map((i) => texts[i]!.text),
        { addSpecialTokens: complete, offsets },
      );
      for (const [k, i] of wanted.entries()) {
        results[i] = label(texts[i]!, encodings[k]!, tokenizer);
        if (pause.due) await pause.turn();
      }
    }
  }
  return results;
}

function label(source: PreparedText, encoding: Encoding, tokenizer: Tokenizer): TokenizedRow {
  let { ids } = encoding;
  let weights = source.spans && tokenWeights(source.text, encoding.offsets!, source.spans);
  const eos = tokenizer.eosTokenId;
  if (source.complete && eos !== undefined) {
    if (ids.at(-1) !== eos) {
      ids = Int32Array.from([...ids, eos]);
      weights &&= Float32Array.from([...weights, 1]);
    } else if (weights) {
      weights[weights.length - 1] = 1;
    }
  }
  const labels = ids.slice();
  if (weights) for (let i = 0; i < labels.length; i++) if (weights[i] === 0) labels[i] = IGNORE;
  const weighted = weights?.some((weight) => weight !== 0 && weight !== 1) ?? false;
  return { inputIds: ids, labels, splittable: source.splittable, ...(weighted && { weights }) };
}

/** 64 bits that depend on a row's content alone: neither on its place nor on the tokenizer. */
export function contentHash(row: Row): { high: number; low: number } {
  const content =
    row.kind === 'tokens'
      ? [row.inputIds, row.labels]
      : row.kind === 'chat'
        ? [row.messages, row.tools ?? null]
        : row.kind === 'completion'
          ? [row.prompt, row.completion]
          : row.text;
  const digest = createHash('sha256')
    .update(JSON.stringify([row.kind, content]))
    .digest();
  return { high: digest.readUInt32LE(0), low: digest.readUInt32LE(4) };
}
