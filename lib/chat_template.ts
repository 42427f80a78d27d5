// Chat templates of a Hugging Face model folder: where they live, and rendering them with
// @huggingface/jinja. Which part of the text the assistant wrote is found in template_spans.ts.
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { LowrankError } from './errors.js';
import { compileTemplate, SPAN_START, type CompiledTemplate } from './jinja.js';
import { findSpans, turnEnds, type AssistantSpan, type SpanContext } from './template_spans.js';
import { readJsonObject, type Tokenizer } from './tokenizer.js';

export interface ChatMessage {
  role: string;
  content: string;
  name?: string;
  /** Trained separately from the content by some templates (`<think>` blocks). */
  reasoning_content?: string;
  tool_calls?: unknown[];
  tool_call_id?: string;
  /** Loss weight of this message; only assistant messages are ever trained. Default 1. */
  weight?: number;
  [field: string]: unknown;
}

export interface RenderOptions {
  /** End with the opening of an assistant turn, for generation. */
  addGenerationPrompt?: boolean;
  /** Tool definitions (JSON schemas), handed to the template. */
  tools?: readonly unknown[];
  /** More variables for the template, such as `enable_thinking`. */
  variables?: Readonly<Record<string, unknown>>;
}

export interface RenderedChat {
  text: string;
  /** What the assistant wrote, with its end-of-turn token; UTF-16 positions in `text`, ascending. */
  spans: AssistantSpan[];
}

export interface ChatTemplateContext {
  /** For messages: the file and key. */
  where?: string;
  /** `bos_token`, `eos_token`, ... as the template may print them. */
  specialTokens?: Readonly<Record<string, string>>;
  /** Texts of the tokens that end a generation. */
  stopTokens?: readonly string[];
  /** Texts of all special tokens of the vocabulary; to recognise the end of a turn. */
  allSpecialTokens?: readonly string[];
}

const MARKS = /[\ufdd0\ufdd1]/g;

export class ChatTemplate {
  readonly where: string;
  /** SHA-256 over the template sources and the tokens they may print. */
  readonly fingerprint: string;

  private readonly compiled = new Map<string, CompiledTemplate>();
  private readonly variables: Record<string, unknown>;
  private readonly spanContext: SpanContext;

  /** `sources`: by name; `default` is needed, `tool_use` is taken for rows with tools. */
  constructor(sources: Readonly<Record<string, string>>, context: ChatTemplateContext = {}) {
    this.where = context.where ?? 'chat template';
    for (const [name, source] of Object.entries(sources)) {
      this.compiled.set(name, compileTemplate(source, this.where));
    }
    if (!this.compiled.has('default')) {
      throw new LowrankError(
        'ERR_LOWRANK_INVALID_FILE',
        `there is no chat template named "default"; found: ${[...this.compiled.keys()].join(', ')}`,
        { where: this.where, hint: 'Choose one of them with --chat-template FILE.' },
      );
    }
    this.variables = { ...context.specialTokens };
    this.fingerprint = createHash('sha256')
      .update(JSON.stringify([sources, context.specialTokens ?? {}, context.stopTokens ?? []]))
      .digest('hex');
    this.spanContext = {
      render: (messages, options) => this.render(messages, options),
      stopTokens: context.stopTokens ?? [],
      specialTokens: context.allSpecialTokens ?? [],
      generationPrompts: new Map(),
      turnEnds: new Map(),
    };
  }

  /**
   * The template of a model folder: chat_template.jinja with additional_chat_templates/*.jinja, else
   * chat_template.json, else tokenizer_config.json. Undefined when the folder has none.
   */
  static async load(folder: string, tokenizer: Tokenizer): Promise<ChatTemplate | undefined> {
    const found = await findSources(folder);
    return found && new ChatTemplate(found.sources, templateContext(tokenizer, found.where));
  }

  /** A template from a file of the user's own. */
  static async fromFile(file: string, tokenizer: Tokenizer): Promise<ChatTemplate> {
    let source: string;
    try {
      source = await readFile(file, 'utf8');
    } catch (cause) {
      throw new LowrankError(
        'ERR_LOWRANK_IO',
        `cannot read the chat template: ${(cause as Error).message}`,
        {
          where: file,
          cause,
        },
      );
    }
    return new ChatTemplate({ default: source }, templateContext(tokenizer, file));
  }

  /** Whether the template itself marks what the assistant writes. */
  get hasGenerationTags(): boolean {
    return this.compiled.get('default')!.hasGenerationTags;
  }

  /** The text of a conversation. Throws ERR_LOWRANK_INVALID_DATA when the template refuses it. */
  render(messages: readonly ChatMessage[], options: RenderOptions = {}): string {
    return this.renderMarked(messages, options).replace(MARKS, '');
  }

  /**
   * The text with the spans the assistant wrote, each with the token that ends its turn. With
   * `{% generation %}` the tags decide; else see template_spans.ts.
   */
  renderWithSpans(messages: readonly ChatMessage[], options: RenderOptions = {}): RenderedChat {
    const marked = this.renderMarked(messages, options);
    const text = marked.replace(MARKS, '');
    const tagged = this.pick(options).hasGenerationTags ? parseMarks(marked) : undefined;
    return { text, spans: findSpans(this.spanContext, text, messages, options, tagged) };
  }

  /** Texts of the tokens that end an assistant's turn: the stop tokens and what the template writes. */
  turnEnds(): readonly string[] {
    return turnEnds(this.spanContext, {}).tokens;
  }

  private pick(options: RenderOptions): CompiledTemplate {
    const tools = options.tools !== undefined && options.tools.length > 0;
    return (tools ? this.compiled.get('tool_use') : undefined) ?? this.compiled.get('default')!;
  }

  private renderMarked(messages: readonly ChatMessage[], options: RenderOptions): string {
    try {
      return this.pick(options).render({
        documents: null,
        ...this.variables,
        ...options.variables,
        messages: messages.map(({ weight: _, ...message }) => message),
        tools: options.tools && options.tools.length > 0 ? options.tools : null,
        add_generation_prompt: options.addGenerationPrompt ?? false,
      });
    } catch (cause) {
      throw new LowrankError(
        'ERR_LOWRANK_INVALID_DATA',
        `the chat template refuses this conversation: ${cause instanceof Error ? cause.message : String(cause)}`,
        {
          where: this.where,
          hint: 'Bring the messages into the order and form that the model was trained with.',
          cause,
        },
      );
    }
  }
}

function parseMarks(marked: string): { start: number; end: number }[] {
  const spans: { start: number; end: number }[] = [];
  let removed = 0;
  let start = -1;
  for (const match of marked.matchAll(MARKS)) {
    const position = match.index - removed++;
    if (match[0] === SPAN_START) start = position;
    else if (start >= 0 && position > start) spans.push({ start, end: position });
  }
  return spans;
}

function templateContext(tokenizer: Tokenizer, where: string): ChatTemplateContext {
  const texts = (ids: readonly number[]): string[] =>
    ids.map((id) => tokenizer.idToToken(id)).filter((text) => text !== undefined);
  return {
    where,
    specialTokens: tokenizer.specialTokens,
    stopTokens: texts(tokenizer.stopTokenIds),
    allSpecialTokens: tokenizer.addedTokens
      .filter((token) => token.special)
      .map((token) => token.content),
  };
}

interface FoundSources {
  sources: Record<string, string>;
  where: string;
}

async function findSources(folder: string): Promise<FoundSources | undefined> {
  const file = path.join(folder, 'chat_template.jinja');
  const main = await readIfExists(file);
  if (main !== undefined) {
    const sources: Record<string, string> = { default: main };
    const more = path.join(folder, 'additional_chat_templates');
    const names = await readdir(more).catch(() => []);
    for (const name of names.filter((name) => name.endsWith('.jinja')).sort()) {
      sources[path.basename(name, '.jinja')] = await readFile(path.join(more, name), 'utf8');
    }
    return { sources, where: file };
  }
  for (const name of ['chat_template.json', 'tokenizer_config.json']) {
    const where = path.join(folder, name);
    const sources = parseSources((await readJsonObject(where))['chat_template'], where);
    if (sources) return { sources, where };
  }
  return undefined;
}

// `chat_template`: a string, or a list of {name, template}.
function parseSources(value: unknown, where: string): Record<string, string> | undefined {
  if (value === undefined || value === null) return undefined;
  if (typeof value === 'string') return { default: value };
  const sources: Record<string, string> = {};
  for (const entry of Array.isArray(value) ? (value as unknown[]) : [undefined]) {
    const { name, template } = (entry ?? {}) as { name?: unknown; template?: unknown };
    if (typeof name !== 'string' || typeof template !== 'string') {
      throw new LowrankError(
        'ERR_LOWRANK_INVALID_FILE',
        '"chat_template" must be a string or a list of {name, template}',
        { where, hint: 'Correct the file, or give a template with --chat-template FILE.' },
      );
    }
    sources[name] = template;
  }
  return sources;
}

async function readIfExists(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8');
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new LowrankError('ERR_LOWRANK_IO', `cannot read the file: ${(cause as Error).message}`, {
      where: file,
      cause,
    });
  }
}
