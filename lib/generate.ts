// Text from a model, piece by piece: prompt to ids, sampling, stop tokens and stop strings, and text
// that is held back until it can no longer be part of a stop string or of an unfinished character.
import { z } from 'zod';

import type { Adapter } from './adapter.js';
import type { ChatMessage, RenderOptions } from './chat_template.js';
import { LowrankError } from './errors.js';
import type { Model } from './model.js';
import { linkAbort, throwIfAborted } from './native/abort.js';
import type { NativeGenerator } from './native/addon.js';
import { call } from './native/call.js';
import { TextStream } from './text_stream.js';
import type { Tokenizer } from './tokenizer.js';
import { parseOptions } from './validate.js';

/** A text, a conversation, or token ids. */
export type Prompt = string | readonly ChatMessage[] | Int32Array;

const samplingSchema = z.strictObject({
  maxNewTokens: z.number().int().positive().default(256),
  /** 0 takes the most likely token. */
  temperature: z.number().nonnegative().default(0),
  /** Only the k most likely tokens; 0 = all. */
  topK: z.number().int().nonnegative().default(0),
  /** Only the most likely tokens that together have this probability. */
  topP: z.number().positive().max(1).default(1),
  seed: z.number().int().nonnegative().default(0),
  /** Texts that end the answer; they aren't part of it. */
  stop: z.union([z.string(), z.array(z.string())]).default([]),
});

export interface GenerateOptions extends z.input<typeof samplingSchema> {
  adapter?: Adapter;
  signal?: AbortSignal;
  /** For the chat template: tool definitions and other variables. */
  tools?: RenderOptions['tools'];
  variables?: RenderOptions['variables'];
}

export type FinishReason = 'stop-token' | 'stop-string' | 'length';

export interface GenerationSummary {
  promptTokens: number;
  newTokens: number;
  finishReason: FinishReason;
}

type Sampling = z.output<typeof samplingSchema>;

/** One answer. Iterate it once, or ask for its text(). */
export class Generation implements AsyncIterable<string> {
  private started = false;
  private finished: GenerationSummary | undefined;
  private readonly sampling: Sampling;

  constructor(
    private readonly model: Model,
    private readonly prompt: Prompt,
    private readonly options: GenerateOptions,
  ) {
    const { adapter: _a, signal: _s, tools: _t, variables: _v, ...sampling } = options;
    this.sampling = parseOptions(samplingSchema, sampling, 'generate');
  }

  /** The whole answer. */
  async text(): Promise<string> {
    let text = '';
    for await (const piece of this) text += piece;
    return text;
  }

  /** How it ended; undefined until it has. */
  get summary(): GenerationSummary | undefined {
    return this.finished;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<string, void, undefined> {
    if (this.started) {
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', 'a generation can be read only once');
    }
    this.started = true;
    const { signal, adapter } = this.options;
    throwIfAborted(signal);
    const tokenizer = await this.model.tokenizer();
    const ids = await this.promptIds();
    const limit = this.newTokenLimit(ids.length);
    const abort = linkAbort(signal);
    const generator = await call(() =>
      this.model.native.createGenerator(adapter?.native ?? null, ids.length + limit),
    );
    try {
      await call(() => generator.prefill(ids, abort.flag));
      const stopTokens = new Set([
        ...tokenizer.stopTokenIds,
        ...this.model.info.eosTokenIds,
        ...(await this.turnEnds(tokenizer)),
      ]);
      const text = new TextStream(tokenizer);
      const stops = new StopStrings([this.sampling.stop].flat());
      const end = (finishReason: FinishReason, newTokens: number): void => {
        this.finished = { promptTokens: ids.length, newTokens, finishReason };
      };
      for (let count = 0; count < limit; count++) {
        throwIfAborted(signal);
        const token = await this.next(generator);
        if (stopTokens.has(token)) {
          end('stop-token', count);
          break;
        }
        const piece = stops.push(await text.push(token));
        if (piece !== '') yield piece;
        if (stops.found) return end('stop-string', count + 1);
      }
      if (!this.finished) end('length', limit);
      const rest = stops.push(await text.end()) + stops.end();
      if (rest !== '') yield rest;
    } finally {
      abort.unlink();
      await generator.dispose();
    }
  }

  private next(generator: NativeGenerator): Promise<number> {
    const { temperature, topK, topP, seed } = this.sampling;
    return call(() => generator.next({ temperature, topK, topP, seed }));
  }

  // In a chat also what the template writes behind an answer; some folders don't name it as a stop token.
  private async turnEnds(tokenizer: Tokenizer): Promise<number[]> {
    if (!Array.isArray(this.prompt)) return [];
    const template = await this.model.chatTemplate();
    const ids = template?.turnEnds().map((token) => tokenizer.tokenToId(token)) ?? [];
    return ids.filter((id) => id !== undefined);
  }

  private async promptIds(): Promise<Int32Array> {
    const { prompt } = this;
    if (prompt instanceof Int32Array) return prompt;
    const tokenizer = await this.model.tokenizer();
    if (typeof prompt === 'string') {
      return (await tokenizer.encode(prompt, { addSpecialTokens: true })).ids;
    }
    const template = await this.model.chatTemplate();
    if (!template) {
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', 'the model has no chat template', {
        where: this.model.folder,
        hint: 'give the prompt as a text, or add a chat_template.jinja to the folder',
      });
    }
    const { tools, variables } = this.options;
    const text = template.render(prompt, { addGenerationPrompt: true, tools, variables });
    return (await tokenizer.encode(text)).ids;
  }

  private newTokenLimit(promptTokens: number): number {
    const { maxPositions } = this.model.info;
    if (promptTokens === 0) {
      throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', 'the prompt has no tokens');
    }
    if (promptTokens >= maxPositions) {
      throw new LowrankError(
        'ERR_LOWRANK_INVALID_ARGUMENT',
        `the prompt has ${promptTokens} tokens; the model takes ${maxPositions}`,
        { hint: 'shorten the prompt' },
      );
    }
    return Math.min(this.sampling.maxNewTokens, maxPositions - promptTokens);
  }
}

/** Lets text through until a stop string appears, also one that spans several pieces. */
export class StopStrings {
  found = false;
  private held = '';
  private readonly stops: readonly string[];

  constructor(stops: readonly string[]) {
    this.stops = stops.filter((stop) => stop !== '');
  }

  /** The part of the text so far that is certain to stand before any stop string. */
  push(piece: string): string {
    if (this.found) return '';
    this.held += piece;
    const at = Math.min(...this.stops.map((stop) => position(this.held, stop)));
    if (Number.isFinite(at)) {
      this.found = true;
      return this.release(at);
    }
    return this.release(this.held.length - this.possibleStart());
  }

  /** What was held back because a stop string might have begun in it. */
  end(): string {
    return this.found ? '' : this.release(this.held.length);
  }

  private release(length: number): string {
    const text = this.held.slice(0, length);
    this.held = this.held.slice(length);
    return text;
  }

  // Length of the longest end of `held` that begins a stop string.
  private possibleStart(): number {
    let longest = 0;
    for (const stop of this.stops) {
      for (let n = Math.min(stop.length - 1, this.held.length); n > longest; n--) {
        if (this.held.endsWith(stop.slice(0, n))) longest = n;
      }
    }
    return longest;
  }
}

function position(text: string, part: string): number {
  const at = text.indexOf(part);
  return at < 0 ? Infinity : at;
}
