// Which characters of a rendered conversation the assistant wrote, for any chat template. The template
// is only ever called, never parsed: where content lands is seen by rendering it with marks around it,
// or, where a template looks at the content (thinking, tool calls), with other content in its place.
//
// A span runs from the end of the generation prompt (what the model is given at inference) to the end
// of the turn's stop token. An empty `<think></think>` that only the template wrote is left out.
import type { ChatMessage, RenderOptions } from './chat_template.js';

export interface AssistantSpan {
  /** UTF-16 positions in the rendered text, [start, end). */
  start: number;
  end: number;
  /** Index of the message. */
  message: number;
  /** Loss weight; spans of weight 0 are left out. */
  weight: number;
}

export interface SpanContext {
  render(messages: readonly ChatMessage[], options: RenderOptions): string;
  stopTokens: readonly string[];
  specialTokens: readonly string[];
  /** Filled in as needed; both by the template variables in use. */
  generationPrompts: Map<string, string>;
  turnEnds: Map<string, TurnEnds>;
}

export interface TurnEnds {
  /** Tokens that end an assistant turn. */
  tokens: string[];
  /** What the template writes between an answer and such a token. */
  before: string[];
}

interface Region {
  start: number;
  end: number;
}

const OPEN = '\ufdd2';
const CLOSE = '\ufdd3';
const OTHER = '\ufdd4'; // stands in for content; no text contains it, so nothing matches by chance
const PROBES = ['\ufdd5', '\ufdd6', '\ufdd7', '\ufdd8'];
// Its opening may stand in the generation prompt already.
const EMPTY_THOUGHT =
  /^\s*(?:(?:<(?:think|thinking|reasoning)>\s*)?<\/(?:think|thinking|reasoning)>|(?:\[THINK\]\s*)?\[\/THINK\])\s*/;
const THOUGHT_FIELDS = ['reasoning_content', 'reasoning', 'thinking'];
const THOUGHT = /<(?:think|thinking|reasoning)>|<\/(?:think|thinking|reasoning)>|\[THINK\]/;

/** `tagged`: the spans of `{% generation %}`, which are then kept as they are (plus the stop token). */
export function findSpans(
  context: SpanContext,
  text: string,
  messages: readonly ChatMessage[],
  options: RenderOptions,
  tagged?: readonly Region[],
): AssistantSpan[] {
  const assistants = messages.flatMap((message, index) =>
    message.role === 'assistant' ? [index] : [],
  );
  if (assistants.length === 0) return [];
  const ends = turnEnds(context, options);
  let spans: AssistantSpan[];
  if (tagged) {
    spans = tagged.map(({ start, end }, i) => ({
      start,
      end: Math.max(end, turnEnd(text, end, tagged[i + 1]?.start ?? text.length, ends, false)),
      message: -1,
      weight: 1,
    }));
    assignMessages(spans, assistants, () =>
      ownSpans(context, text, messages, assistants, options, ends),
    );
  } else {
    spans = ownSpans(context, text, messages, assistants, options, ends);
  }
  for (const span of spans) span.weight = messages[span.message]?.weight ?? 1;
  return spans.filter((span) => span.weight !== 0 && span.end > span.start);
}

// Tagged spans in order are the assistant's messages in order, unless the template tags only some.
function assignMessages(
  spans: AssistantSpan[],
  assistants: readonly number[],
  own: () => AssistantSpan[],
): void {
  if (spans.length === assistants.length) {
    spans.forEach((span, i) => (span.message = assistants[i]!));
    return;
  }
  const known = own();
  for (const span of spans) {
    const hit = known.find(({ start, end }) => start < span.end && end > span.start);
    span.message = hit?.message ?? assistants[0]!;
  }
}

function ownSpans(
  context: SpanContext,
  text: string,
  messages: readonly ChatMessage[],
  assistants: readonly number[],
  options: RenderOptions,
  ends: TurnEnds,
): AssistantSpan[] {
  const marked = markedRegions(context, text, messages, assistants, options);
  const regions = assistants.map(
    (index) => marked.get(index) ?? replacedRegion(context, text, messages, index, options),
  );
  const prompt = generationPrompt(context, options);
  const spans: AssistantSpan[] = [];
  let floor = 0;
  assistants.forEach((index, i) => {
    const region = regions[i];
    if (!region) return;
    const message = messages[index]!;
    const next = regions.slice(i + 1).find((later) => later && later.start >= region.end);
    const start = Math.max(floor, spanStart(text, floor, region.start, prompt, message));
    // Of a tool call or a thought only the neighbourhood is known: read on to the stop token.
    const loose = isToolCall(message) || hasThought(message);
    const end = turnEnd(text, Math.max(start, region.end), next?.start ?? text.length, ends, loose);
    spans.push({ start, end, message: index, weight: 1 });
    floor = end;
  });
  return spans;
}

// All plain messages at once: one rendering with marks around the contents. It counts only if, marks
// removed, it is the very same text.
function markedRegions(
  context: SpanContext,
  text: string,
  messages: readonly ChatMessage[],
  assistants: readonly number[],
  options: RenderOptions,
): Map<number, Region> {
  const regions = new Map<number, Region>();
  // White space at the ends may be trimmed or not; replacing the content tells which.
  const plain = assistants.filter((index) => {
    const message = messages[index]!;
    const { content } = message;
    const bare = content !== '' && content.trim() === content;
    return bare && !isToolCall(message) && !hasThought(message);
  });
  if (plain.length === 0) return regions;
  const withMarks = messages.slice();
  for (const index of plain) {
    const message = messages[index]!;
    withMarks[index] = { ...message, content: OPEN + message.content + CLOSE };
  }
  const rendered = tryRender(context, withMarks, options);
  if (rendered === undefined || rendered.replace(/[\ufdd2\ufdd3]/g, '') !== text) return regions;
  const marks = [...rendered.matchAll(/[\ufdd2\ufdd3]/g)];
  if (marks.length !== 2 * plain.length) return regions;
  if (marks.some((mark, i) => mark[0] !== (i % 2 === 0 ? OPEN : CLOSE))) return regions;
  plain.forEach((index, i) => {
    const start = marks[2 * i]!.index - 2 * i;
    regions.set(index, { start, end: marks[2 * i + 1]!.index - (2 * i + 1) });
  });
  return regions;
}

// One message: what changes in the text when its content is replaced.
function replacedRegion(
  context: SpanContext,
  text: string,
  messages: readonly ChatMessage[],
  index: number,
  options: RenderOptions,
): Region | undefined {
  const before = tryRender(context, messages.slice(0, index), options);
  const floor = before !== undefined && text.startsWith(before) ? before.length : 0;
  for (const replacement of replacements(messages[index]!)) {
    const changed = messages.slice();
    changed[index] = replacement;
    const rendered = tryRender(context, changed, options);
    if (rendered === undefined || rendered === text) continue;
    const limit = Math.min(text.length, rendered.length);
    let start = 0;
    while (start < limit && text[start] === rendered[start]) start++;
    let tail = 0;
    while (tail < limit - start && text.at(-1 - tail) === rendered.at(-1 - tail)) tail++;
    // A change further up (a system prompt that depends on the content) says nothing.
    if (start >= floor) return { start, end: text.length - tail };
  }
  return undefined;
}

function replacements(message: ChatMessage): ChatMessage[] {
  const { tool_calls, ...rest } = message;
  const plain: ChatMessage = { ...rest, content: OTHER };
  for (const field of THOUGHT_FIELDS) delete plain[field];
  if (!Array.isArray(tool_calls)) return [plain];
  // Templates that pair each call with its answer refuse a message without: rename the functions.
  const renamed = tool_calls.map((call) => {
    const copy = { ...(call as { function?: object; name?: string }) };
    if (copy.function) copy.function = { ...copy.function, name: OTHER };
    else copy.name = OTHER;
    return copy;
  });
  return [plain, { ...message, tool_calls: renamed }];
}

function spanStart(
  text: string,
  floor: number,
  contentStart: number,
  prompt: string,
  message: ChatMessage,
): number {
  if (prompt === '' || contentStart < prompt.length) return contentStart;
  const at = text.lastIndexOf(prompt, contentStart - prompt.length);
  if (at < floor) return contentStart;
  const start = at + prompt.length;
  const between = text.slice(start, contentStart);
  if (hasThought(message)) return start;
  const scaffold = EMPTY_THOUGHT.exec(between);
  return scaffold ? start + scaffold[0].length : start;
}

// The position behind the first end of a turn after `from`. Only white space or what the template always
// writes there may stand between; when `loose`, anything up to `limit`. Without an end, `from`.
function turnEnd(
  text: string,
  from: number,
  limit: number,
  ends: TurnEnds,
  loose: boolean,
): number {
  let best = Infinity;
  let length = 0;
  for (const token of ends.tokens) {
    const at = text.indexOf(token, from);
    if (at < 0 || at + token.length > limit || at > best) continue;
    if (at === best && token.length <= length) continue;
    best = at;
    length = token.length;
  }
  if (best === Infinity) return from;
  const between = text.slice(from, best);
  const usual = between.trim() === '' || ends.before.includes(between);
  return loose || usual ? best + length : from;
}

/** What the template appends to open an assistant turn. */
function generationPrompt(context: SpanContext, options: RenderOptions): string {
  const key = variablesKey(options);
  let prompt = context.generationPrompts.get(key);
  if (prompt === undefined) {
    const messages = [{ role: 'user', content: 'x' }];
    const without = tryRender(context, messages, options);
    const opened = tryRender(context, messages, { ...options, addGenerationPrompt: true });
    const usable = without !== undefined && opened !== undefined && opened.startsWith(without);
    prompt = usable ? opened.slice(without.length) : '';
    context.generationPrompts.set(key, prompt);
  }
  return prompt;
}

/**
 * Tokens that end an assistant turn: the stop tokens, and, where the template writes none of them, the
 * special token that it writes behind the last answer, or between an answer and the next question.
 */
export function turnEnds(context: SpanContext, options: RenderOptions): TurnEnds {
  const key = variablesKey(options);
  let ends = context.turnEnds.get(key);
  if (ends === undefined) {
    ends = { tokens: [...context.stopTokens], before: [] };
    for (const text of closings(context, options)) {
      const found = firstOf(ends.tokens, text) ?? firstOf(context.specialTokens, text);
      if (found === undefined) continue;
      if (!ends.tokens.includes(found)) ends.tokens.push(found);
      ends.before.push(text.slice(0, text.indexOf(found)));
    }
    context.turnEnds.set(key, ends);
  }
  return ends;
}

function firstOf(tokens: readonly string[], text: string): string | undefined {
  return tokens
    .filter((token) => text.includes(token))
    .sort((a, b) => text.indexOf(a) - text.indexOf(b) || b.length - a.length)[0];
}

// What the template writes behind an answer: at the end of a conversation, and before a question.
function closings(context: SpanContext, options: RenderOptions): string[] {
  const chat = ['user', 'assistant', 'user', 'assistant'].map((role, i) => ({
    role,
    content: PROBES[i]!,
  }));
  const text = tryRender(context, chat, options);
  if (text === undefined) return [];
  const [question, answer, next, last] = PROBES.map((probe) => text.lastIndexOf(probe)) as [
    number,
    number,
    number,
    number,
  ];
  const closing = text.slice(last + 1);
  if (question < 0 || answer < question || next < answer) return [closing];
  // What opens the second question opens the first one, too.
  let opening = 0;
  while (opening < Math.min(question, next - answer - 1)) {
    if (text[question - 1 - opening] !== text[next - 1 - opening]) break;
    opening++;
  }
  const between = text.slice(answer + 1, next);
  if (opening < between.length) return [closing, text.slice(answer + 1, next - opening)];
  // A message before the first question (a default system prompt) ended as the answer did. If the
  // assistant's turn opens with a token that is also in between, the end is what stands before it.
  const opener = firstOf(context.specialTokens, generationPrompt(context, options));
  const at = opener === undefined ? -1 : between.indexOf(opener);
  return at > 0 ? [closing, between.slice(0, at)] : [closing];
}

function tryRender(
  context: SpanContext,
  messages: readonly ChatMessage[],
  options: RenderOptions,
): string | undefined {
  try {
    return context.render(messages, options);
  } catch {
    return undefined; // the caller has another way; the whole conversation did render
  }
}

function variablesKey(options: RenderOptions): string {
  return JSON.stringify([options.variables ?? null, (options.tools?.length ?? 0) > 0]);
}

function isToolCall(message: ChatMessage): boolean {
  return Array.isArray(message.tool_calls) && message.tool_calls.length > 0;
}

function hasThought(message: ChatMessage): boolean {
  return (
    THOUGHT.test(message.content) ||
    THOUGHT_FIELDS.some(
      (field) => typeof message[field] === 'string' && message[field].trim() !== '',
    )
  );
}
