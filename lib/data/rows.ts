// From a row of a file to what is trained on. The kind of a row is recognised by its keys; what is wrong
// with a row is said together with what to do about it.
import type { ChatMessage } from '../chat_template.js';
import type { RowFormat } from './types.js';

export type Row =
  | {
      kind: 'chat';
      format: 'chat' | 'sharegpt' | 'alpaca' | 'prompt-completion';
      messages: ChatMessage[];
      tools?: unknown[];
      /** Variables for the template (`chat_template_kwargs` of the row). */
      variables?: Record<string, unknown>;
      /** An Alpaca row's parts, for models without a chat template. */
      alpaca?: { prompt: string; completion: string };
    }
  | { kind: 'completion'; format: 'prompt-completion'; prompt: string; completion: string }
  | { kind: 'text'; format: 'text'; text: string }
  | { kind: 'tokens'; format: 'tokenized'; inputIds: number[]; labels: number[] };

/** What is wrong with a row, and what to do. */
export class RowError extends Error {}

type Fields = Record<string, unknown>;

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

function alpacaRow(row: Fields): Row {
  const text = (key: string): string => {
    const value = row[key] ?? '';
    if (typeof value !== 'string') {
      throw new RowError(`"${key}" must be a string, found ${describe(value)}.`);
    }
    checkText(value, `"${key}"`);
    return value;
  };
  const [instruction, input, output, system] = ['instruction', 'input', 'output', 'system'].map(
    text,
  ) as [string, string, string, string];
  if (output === '') throw new RowError('"output" is empty. Remove the row, or fill it in.');
  const list: ChatMessage[] = [];
  if (system !== '') list.push({ role: 'system', content: system });
  const history = row['history'] ?? [];
  if (!Array.isArray(history)) {
    throw new RowError(
      `"history" must be a list of [question, answer], found ${describe(history)}.`,
    );
  }
  for (const turn of history as unknown[]) {
    if (!Array.isArray(turn) || typeof turn[0] !== 'string' || typeof turn[1] !== 'string') {
      throw new RowError('"history" must be a list of [question, answer], both strings.');
    }
    checkText(turn[0] + turn[1], '"history"');
    list.push({ role: 'user', content: turn[0] }, { role: 'assistant', content: turn[1] });
  }
  const question = input === '' ? instruction : `${instruction}\n\n${input}`;
  list.push({ role: 'user', content: question }, { role: 'assistant', content: output });
  return {
    kind: 'chat',
    format: 'alpaca',
    messages: list,
    alpaca: { prompt: alpacaPrompt(system, instruction, input), completion: output },
  };
}

// The sections of the Alpaca prompt, for a model that was never taught a chat format.
function alpacaPrompt(system: string, instruction: string, input: string): string {
  const parts = system === '' ? [] : [system];
  parts.push(`### Instruction:\n${instruction}`);
  if (input !== '') parts.push(`### Input:\n${input}`);
  return `${parts.join('\n\n')}\n\n### Response:\n`;
}

function chatRow(row: Fields, key: 'messages' | 'conversations'): Row {
  const list = row[key];
  if (!Array.isArray(list)) throw new RowError(`"${key}" must be a list, found ${describe(list)}.`);
  if (list.length === 0) throw new RowError(`"${key}" is empty. Remove the row.`);
  const isShareGpt = isObject(list[0]) && list[0]['from'] !== undefined;
  const parsed = isShareGpt ? shareGptMessages(list, key) : messages(list, key);
  if (isShareGpt && typeof row['system'] === 'string' && row['system'] !== '') {
    if (parsed[0]?.role !== 'system') parsed.unshift({ role: 'system', content: row['system'] });
  }
  requireAssistant(parsed, key);
  return {
    kind: 'chat',
    format: isShareGpt ? 'sharegpt' : 'chat',
    messages: parsed,
    ...extras(row),
  };
}

function extras(row: Fields): { tools?: unknown[]; variables?: Record<string, unknown> } {
  const out: { tools?: unknown[]; variables?: Record<string, unknown> } = {};
  let tools = row['tools'];
  if (typeof tools === 'string' && tools.trim() !== '') tools = parseJson(tools, 'tools');
  if (tools !== undefined && tools !== null && tools !== '') {
    if (!Array.isArray(tools))
      throw new RowError(`"tools" must be a list, found ${describe(tools)}.`);
    if (tools.length > 0) out.tools = tools;
  }
  const variables = row['chat_template_kwargs'];
  if (isObject(variables)) out.variables = variables;
  return out;
}

const ROLES = new Set(['system', 'developer', 'user', 'assistant', 'tool', 'function']);

function messages(list: unknown[], key: string): ChatMessage[] {
  return list.map((entry, i) => {
    const at = `"${key}"[${i}]`;
    if (!isObject(entry)) {
      throw new RowError(
        `${at} must be an object with "role" and "content", found ${describe(entry)}.`,
      );
    }
    const { role } = entry;
    if (typeof role !== 'string') throw new RowError(`${at} has no "role". ${roleAdvice()}`);
    const known = role === 'model' ? 'assistant' : role;
    if (!ROLES.has(known))
      throw new RowError(`${at} has the unknown role "${role}". ${roleAdvice()}`);
    const { content, weight, tool_calls, ...rest } = entry;
    const message: ChatMessage = { ...dropNulls(rest), role: known, content: '' };
    const calls = toolCalls(tool_calls, at);
    message.content = contentText(content, at, calls !== undefined);
    if (calls) message.tool_calls = calls;
    for (const value of Object.values(message)) if (typeof value === 'string') checkText(value, at);
    setWeight(message, weight, at);
    return message;
  });
}

function roleAdvice(): string {
  return `Use ${[...ROLES].map((role) => `"${role}"`).join(', ')}.`;
}

function setWeight(message: ChatMessage, weight: unknown, at: string): void {
  if (weight === undefined || weight === null) return;
  const number = typeof weight === 'bigint' ? Number(weight) : weight;
  if (typeof number !== 'number' || !Number.isFinite(number) || number < 0) {
    throw new RowError(
      `${at} has the weight ${describe(weight)}. Use 0 (not trained), 1, or another number from 0.`,
    );
  }
  message.weight = number;
}

function contentText(content: unknown, at: string, mayBeEmpty: boolean): string {
  if (typeof content === 'string') return content;
  if (content === undefined || content === null) {
    if (mayBeEmpty) return '';
    throw new RowError(`${at} has no "content". Give a string.`);
  }
  if (Array.isArray(content)) {
    return content
      .map((part: unknown) => {
        if (typeof part === 'string') return part;
        if (isObject(part) && typeof part['text'] === 'string') return part['text'];
        const type = isObject(part) ? JSON.stringify(part['type']) : describe(part);
        throw new RowError(
          `${at} has a content part of type ${type}. Only text parts can be trained.`,
        );
      })
      .join('');
  }
  throw new RowError(`${at} has a "content" that is ${describe(content)}. Give a string.`);
}

// Arguments that are JSON in a string (as the OpenAI API has them) become objects, which is what
// templates expect.
function toolCalls(value: unknown, at: string): unknown[] | undefined {
  if (value === undefined || value === null) return undefined;
  if (!Array.isArray(value)) {
    throw new RowError(`${at} has "tool_calls" that are ${describe(value)}. Give a list.`);
  }
  if (value.length === 0) return undefined;
  return value.map((call: unknown, i) => {
    if (!isObject(call)) throw new RowError(`${at}.tool_calls[${i}] must be an object.`);
    const fn = isObject(call['function']) ? call['function'] : call;
    if (typeof fn['name'] !== 'string')
      throw new RowError(`${at}.tool_calls[${i}] names no function.`);
    if (typeof fn['arguments'] !== 'string') return call;
    const args = parseJson(
      fn['arguments'] === '' ? '{}' : fn['arguments'],
      `${at}.tool_calls[${i}]`,
    );
    const parsed = { ...fn, arguments: args };
    return fn === call ? parsed : { ...call, function: parsed };
  });
}

const SHAREGPT_ROLES: Record<string, string> = {
  human: 'user',
  user: 'user',
  gpt: 'assistant',
  chatgpt: 'assistant',
  assistant: 'assistant',
  model: 'assistant',
  function_call: 'assistant',
  system: 'system',
  observation: 'tool',
  tool: 'tool',
  function_response: 'tool',
};

function shareGptMessages(list: unknown[], key: string): ChatMessage[] {
  return list.map((entry, i) => {
    const at = `"${key}"[${i}]`;
    if (!isObject(entry)) {
      throw new RowError(
        `${at} must be an object with "from" and "value", found ${describe(entry)}.`,
      );
    }
    const { from, value, weight } = entry;
    const role = typeof from === 'string' ? SHAREGPT_ROLES[from] : undefined;
    if (role === undefined) {
      const known = Object.keys(SHAREGPT_ROLES).join(', ');
      throw new RowError(`${at} has "from": ${describe(from)}. Use one of ${known}.`);
    }
    if (typeof value !== 'string') {
      throw new RowError(`${at} has a "value" that is ${describe(value)}. Give a string.`);
    }
    checkText(value, at);
    const message: ChatMessage = { role, content: value };
    if (from === 'function_call') {
      const parsed = parseJson(value, at);
      const calls = (Array.isArray(parsed) ? parsed : [parsed]) as unknown[];
      message.content = '';
      message.tool_calls = toolCalls(
        calls.map((call) => ({ type: 'function', function: call })),
        at,
      );
    }
    setWeight(message, weight, at);
    return message;
  });
}

function requireAssistant(list: readonly ChatMessage[], key: string): void {
  if (list.some((message) => message.role === 'assistant')) return;
  throw new RowError(
    `"${key}" has no message of the assistant, so there is nothing to train. Add the answer, or remove the row.`,
  );
}

function parseJson(text: string, what: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new RowError(
      `${what} holds a string that is not valid JSON: ${(cause as Error).message}.`,
    );
  }
}

// U+FDD0 to U+FDEF never occur in text; the mask is found with them as marks.
function checkText(text: string, at: string): void {
  const found = /[\ufdd0-\ufdef]/.exec(text);
  if (!found) return;
  const code = found[0].charCodeAt(0).toString(16).toUpperCase();
  throw new RowError(`${at} contains U+${code}, which is not a character of text. Remove it.`);
}

function dropNulls(fields: Fields): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'null';
  if (Array.isArray(value)) return `a list of ${value.length}`;
  if (typeof value === 'object') return `an object with the keys ${quoteAll(Object.keys(value))}`;
  const text = typeof value === 'string' ? JSON.stringify(value) : String(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function quoteAll(keys: readonly string[]): string {
  const shown = keys.slice(0, 8).map((key) => `"${key}"`);
  return (shown.join(', ') || '(none)') + (keys.length > 8 ? ', ...' : '');
}
