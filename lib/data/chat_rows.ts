// Chats: messages, ShareGPT conversations and Alpaca's single question and answer, all as messages.
import type { ChatMessage } from '../chat_template.js';
import { checkText, describe, isObject, parseJson, RowError, type Fields } from './row_error.js';

/** A conversation to be rendered by the chat template. */
export interface ChatRow {
  kind: 'chat';
  format: 'chat' | 'sharegpt' | 'alpaca' | 'prompt-completion';
  messages: ChatMessage[];
  tools?: unknown[];
  /** Variables for the template (`chat_template_kwargs` of the row). */
  variables?: Record<string, unknown>;
  /** An Alpaca row's parts, for models without a chat template. */
  alpaca?: { prompt: string; completion: string };
}

export function chatRow(row: Fields, key: 'messages' | 'conversations'): ChatRow {
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

/** What a row may hold besides messages. */
export function extras(row: Fields): { tools?: unknown[]; variables?: Record<string, unknown> } {
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

export function alpacaRow(row: Fields): ChatRow {
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

const ROLES = new Set(['system', 'developer', 'user', 'assistant', 'tool', 'function']);

export function messages(list: unknown[], key: string): ChatMessage[] {
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

export function requireAssistant(list: readonly ChatMessage[], key: string): void {
  if (list.some((message) => message.role === 'assistant')) return;
  throw new RowError(
    `"${key}" has no message of the assistant, so there is nothing to train. Add the answer, or remove the row.`,
  );
}

function dropNulls(fields: Fields): Fields {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
}
