// From a row of a file to what is trained on. The kind of a row is recognised by its keys; what is wrong
// with a row is said together with what to do about it.
import {
  alpacaRow,
  chatRow,
  extras,
  messages,
  requireAssistant,
  type ChatRow,
} from './chat_rows.js';
import { checkText, describe, isObject, quoteAll, RowError, type Fields } from './row_error.js';
import type { RowFormat } from './types.js';

export type Row =
  | ChatRow
  | { kind: 'completion'; format: 'prompt-completion'; prompt: string; completion: string }
  | { kind: 'text'; format: 'text'; text: string }
  | { kind: 'tokens'; format: 'tokenized'; inputIds: number[]; labels: number[] };

export const FORMAT_DESCRIPTIONS: Record<RowFormat, string> = {
  chat: '"messages": chat; trained on what the assistant says',
  sharegpt: '"conversations" of {from, value}: chat; trained on what gpt says',
  alpaca: '"instruction", "input", "output": one question and answer; trained on the output',
  'prompt-completion': '"prompt", "completion": trained on the completion',
  text: '"text": plain text; trained on all of it',
  tokenized: '"input_ids", "labels": tokenized already; trained where labels are not -100',
};

const KNOWN_FORMATS =
  'Known rows: {"messages": [...]}, {"conversations": [...]}, {"instruction", "output"}, ' +
  '{"prompt", "completion"}, {"text"}, {"input_ids", "labels"}.';

/** Columns whose cells hold JSON when they come from CSV. */
export const JSON_COLUMNS: ReadonlySet<string> = new Set([
  'messages',
  'conversations',
  'tools',
  'history',
  'input_ids',
  'labels',
  'attention_mask',
  'chat_template_kwargs',
]);

/** Throws RowError. */
export function parseRow(value: unknown): Row {
  if (!isObject(value)) {
    throw new RowError(`a row must be an object, found ${describe(value)}. ${KNOWN_FORMATS}`);
  }
  const has = (key: string): boolean => value[key] !== undefined && value[key] !== null;
  if (has('input_ids')) return tokenizedRow(value);
  refuseOtherTasks(value, has);
  if (has('messages')) return chatRow(value, 'messages');
  if (has('conversations')) return chatRow(value, 'conversations');
  if (has('prompt') && has('completion')) return promptCompletionRow(value);
  if (has('instruction') && has('output')) return alpacaRow(value);
  if (has('text')) return textRow(value);
  const keys = Object.keys(value);
  const found =
    keys.length === 0 ? 'the row is empty' : `the keys ${quoteAll(keys)} match no known row`;
  throw new RowError(`${found}. ${KNOWN_FORMATS}${missingPartner(has)}`);
}

function missingPartner(has: (key: string) => boolean): string {
  const pairs: [string, string][] = [
    ['prompt', 'completion'],
    ['completion', 'prompt'],
    ['instruction', 'output'],
    ['output', 'instruction'],
  ];
  const pair = pairs.find(([there]) => has(there));
  return pair ? ` Add "${pair[1]}" to "${pair[0]}".` : '';
}

function refuseOtherTasks(row: Fields, has: (key: string) => boolean): void {
  const refuse = (what: string, advice: string): never => {
    throw new RowError(`this is a row for ${what}, which is not supported yet. ${advice}`);
  };
  if (has('chosen') || has('rejected') || has('preferred_output')) {
    refuse('preference training', 'Keep the preferred answer alone, as "prompt" and "completion".');
  }
  if (typeof row['label'] === 'boolean' && has('completion')) {
    refuse('unpaired preference training', 'Keep the rows with "label": true, without the label.');
  }
  if (has('completions')) refuse('step-wise supervision', 'Write one "completion" per row.');
  if (has('text') && has('label')) {
    refuse('classification', 'Write the label as "completion" and the text as "prompt".');
  }
}

function tokenizedRow(row: Fields): Row {
  const inputIds = integers(row['input_ids'], 'input_ids', 0);
  if (inputIds.length === 0) throw new RowError('"input_ids" is empty. Remove the row.');
  const labels =
    row['labels'] === undefined || row['labels'] === null
      ? inputIds.slice()
      : integers(row['labels'], 'labels', -100);
  if (labels.length !== inputIds.length) {
    throw new RowError(
      `"labels" has ${labels.length} entries and "input_ids" ${inputIds.length}. ` +
        'Give one label per token, -100 where nothing is trained.',
    );
  }
  const wrong = labels.findIndex((label) => label < 0 && label !== -100);
  if (wrong >= 0) {
    throw new RowError(`"labels"[${wrong}] is ${labels[wrong]}. Use a token id, or -100 for none.`);
  }
  return { kind: 'tokens', format: 'tokenized', inputIds, labels };
}

function integers(value: unknown, key: string, least: number): number[] {
  if (!Array.isArray(value) && !ArrayBuffer.isView(value)) {
    throw new RowError(`"${key}" must be a list of integers, found ${describe(value)}.`);
  }
  return Array.from(value as ArrayLike<unknown>, (item, i) => {
    const number = typeof item === 'bigint' ? Number(item) : item;
    if (
      !Number.isInteger(number) ||
      (number as number) < least ||
      (number as number) > 0x7fffffff
    ) {
      throw new RowError(
        `"${key}"[${i}] is ${describe(item)}. Use whole numbers from ${least} to 2147483647.`,
      );
    }
    return number as number;
  });
}

function textRow(row: Fields): Row {
  const text = row['text'];
  if (typeof text !== 'string')
    throw new RowError(`"text" must be a string, found ${describe(text)}.`);
  if (text === '') throw new RowError('"text" is empty. Remove the row.');
  checkText(text, '"text"');
  return { kind: 'text', format: 'text', text };
}

function promptCompletionRow(row: Fields): Row {
  const { prompt, completion } = row;
  const shared = extras(row);
  if (typeof prompt === 'string' && typeof completion === 'string') {
    if (completion === '')
      throw new RowError('"completion" is empty. Remove the row, or fill it in.');
    checkText(prompt + completion, '"prompt" or "completion"');
    return { kind: 'completion', format: 'prompt-completion', prompt, completion };
  }
  if (Array.isArray(prompt) && Array.isArray(completion)) {
    const before = messages(prompt, 'prompt');
    const after = messages(completion, 'completion');
    requireAssistant(after, 'completion');
    for (const message of before) if (message.role === 'assistant') message.weight = 0;
    return {
      kind: 'chat',
      format: 'prompt-completion',
      messages: [...before, ...after],
      ...shared,
    };
  }
  throw new RowError(
    '"prompt" and "completion" must be two strings or two lists of messages, found ' +
      `${describe(prompt)} and ${describe(completion)}.`,
  );
}
