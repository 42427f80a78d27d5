// A base model on a device: loading, generating, saving. Training over it is in trainer.ts.
import { z } from 'zod';

import { ChatTemplate } from './chat_template.js';
import { LowrankError } from './errors.js';
import { Generation, type GenerateOptions, type Prompt } from './generate.js';
import { linkAbort } from './native/abort.js';
import type {
  NativeDType,
  NativeDeviceOptions,
  NativeModel,
  NativeModelInfo,
  NativeModelOptions,
} from './native/addon.js';
import { call, callSync } from './native/call.js';
import { loadAddon } from './native/load_addon.js';
import { Tokenizer } from './tokenizer.js';
import { parseOptions } from './validate.js';

const optionsSchema = z.strictObject({
  /** How the weights are kept: as they are stored, or quantized while loading. */
  quantization: z.enum(['none', 'nf4', 'nf4-double', 'int8']).default('none'),
  /** Type of activations; sums are always f32. */
  dtype: z.enum(['f32', 'bf16']).default('f32'),
  /** Weights become f32 copies that full fine-tuning can change. Not with quantization. */
  trainable: z.boolean().default(false),
  /** Longest position that will be used; default: what the model was made for. */
  maxLength: z.number().int().positive().optional(),
  /**
   * CPU: weights that keep the file's type are copied to memory, which is read faster, if half of
   * what is free holds the model. Without it they stay in the mapped file, whose memory processes
   * share.
   */
  copyWeights: z.boolean().default(true),
  /** "cpu", "cuda" (the first GPU), "cuda:N", or "auto": CUDA where it can be used, else the CPU. */
  device: z.string().default('auto'),
  /** CPU: default one per physical core. Results don't depend on it. */
  threads: z.number().int().positive().optional(),
  /** CPU instruction set: "reference", "avx2", "avx512", "avx512_bf16", "amx", "neon"; default: the best there is. */
  isa: z.string().optional(),
});

export type ModelOptions = z.input<typeof optionsSchema>;

export interface ModelLoadOptions extends ModelOptions {
  signal?: AbortSignal;
  onProgress?: (done: number, total: number) => void;
}

export class Model implements AsyncDisposable {
  private loadedTokenizer?: Promise<Tokenizer>;
  private loadedTemplate?: Promise<ChatTemplate | undefined>;

  private constructor(
    readonly native: NativeModel,
    /** The folder it was loaded from; empty for a fresh model. */
    readonly folder: string,
    /** As given to load() or create(). */
    readonly options: ModelOptions,
  ) {}

  /** Loads a Hugging Face folder: config.json, safetensors, and what the tokenizer needs. */
  static async load(folder: string, options: ModelLoadOptions = {}): Promise<Model> {
    const { signal, onProgress, ...rest } = options;
    const { device, model } = nativeOptions(rest);
    const abort = linkAbort(signal);
    try {
      const native = await call(() =>
        loadAddon().loadModel(device, folder, model, onProgress, abort.flag),
      );
      return new Model(native, folder, rest);
    } finally {
      abort.unlink();
    }
  }

  /** A model with random weights; `config` is what config.json would hold. */
  static async create(
    config: Record<string, unknown>,
    options: ModelOptions & { seed?: number } = {},
  ): Promise<Model> {
    const { seed = 42, ...rest } = options;
    const { device, model } = nativeOptions(rest);
    const text = JSON.stringify(config);
    const native = await call(() => loadAddon().createModel(device, text, model, seed));
    return new Model(native, '', rest);
  }

  get info(): NativeModelInfo {
    return callSync(() => this.native.info());
  }

  /** The tokenizer of the model's folder, loaded once. */
  tokenizer(): Promise<Tokenizer> {
    this.loadedTokenizer ??= Tokenizer.load(this.requireFolder('tokenizer'));
    return this.loadedTokenizer;
  }

  /** The chat template of the model's folder; undefined when it has none. */
  chatTemplate(): Promise<ChatTemplate | undefined> {
    this.loadedTemplate ??= this.tokenizer().then((tokenizer) =>
      ChatTemplate.load(this.folder, tokenizer),
    );
    return this.loadedTemplate;
  }

  /**
   * Continues a prompt: a text, a conversation (rendered with the model's chat template) or token
   * ids. The result is an async iterable of text pieces; `await model.generate(...).text()` is the
   * whole answer.
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    return new Generation(this, prompt, options);
  }

  /** Writes config.json and safetensors. Not for quantized models. */
  async save(folder: string, options: { dtype?: NativeDType } = {}): Promise<void> {
    await call(() => this.native.save(folder, options.dtype ?? 'f32'));
  }

  /** Waits for work in flight, then frees the model and everything made from it. */
  async dispose(): Promise<void> {
    await call(() => this.native.dispose());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  private requireFolder(what: string): string {
    if (this.folder !== '') return this.folder;
    throw new LowrankError('ERR_LOWRANK_INVALID_ARGUMENT', `a fresh model has no ${what}`, {
      hint: 'save() it, put a tokenizer beside it and load() it',
    });
  }
}

function nativeOptions(options: ModelOptions): {
  device: NativeDeviceOptions;
  model: NativeModelOptions;
} {
  const parsed = parseOptions(optionsSchema, options, 'model');
  const { device, threads, isa, dtype, quantization, trainable, maxLength, copyWeights } = parsed;
  return {
    device: { device, threads, isa },
    model: { compute: dtype, quantization, trainable, maxLength, copyWeights },
  };
}

export interface MergeOptions {
  /** As in ModelOptions. */
  device?: string;
  threads?: number;
  onProgress?: (done: number, total: number) => void;
}

export interface MergeReport {
  /** Logits of the merged and reloaded model against base with adapter, on a fixed input. */
  maxLogitDifference: number;
  /** The largest absolute logit, for scale. */
  maxLogit: number;
  tensorsMerged: number;
}

/** Writes model + adapter as a Hugging Face folder, in f32 arithmetic from the original weights. */
export function mergeAdapter(
  modelFolder: string,
  adapterFolder: string,
  outputFolder: string,
  options: MergeOptions = {},
): Promise<MergeReport> {
  const device = { device: options.device ?? 'auto', threads: options.threads };
  return call(() =>
    loadAddon().mergeAdapter(device, modelFolder, adapterFolder, outputFolder, options.onProgress),
  );
}
