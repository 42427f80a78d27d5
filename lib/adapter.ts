// A LoRA adapter over a model, as PEFT saves it.
import { z } from 'zod';

import { saveAdapterFolder } from './adapter_folder.js';
import type { Model } from './model.js';
import type { NativeAdapter, NativeAdapterInfo, NativeLoraOptions } from './native/addon.js';
import { call, callSync } from './native/call.js';
import { parseOptions } from './validate.js';

const optionsSchema = z.strictObject({
  r: z.number().int().positive().default(16),
  alpha: z.number().positive().default(32),
  dropout: z.number().min(0).lt(1).default(0),
  /** Names or suffixes of linear layers; "all-linear" is every one but the head. */
  targetModules: z.union([z.literal('all-linear'), z.array(z.string())]).default('all-linear'),
  /** A regular expression on full names, instead of targetModules. */
  targetPattern: z.string().default(''),
  useRslora: z.boolean().default(false),
  rankPattern: z.record(z.string(), z.number().int().positive()).default({}),
  alphaPattern: z.record(z.string(), z.number().positive()).default({}),
  modulesToSave: z.array(z.string()).default([]),
  seed: z.number().int().nonnegative().default(42),
});

/** Names and meaning as in PEFT's LoraConfig. */
export type AdapterOptions = z.input<typeof optionsSchema>;

export class Adapter implements AsyncDisposable {
  /** For the trainer; users make adapters with create() and load(). */
  constructor(
    readonly native: NativeAdapter,
    private readonly baseModelName = '',
  ) {}

  /** A fresh adapter: A random, B zero, so that it changes nothing until it is trained. */
  static async create(model: Model, options: AdapterOptions = {}): Promise<Adapter> {
    const parsed = parseOptions(optionsSchema, options, 'adapter');
    const native = await call(() => model.native.createAdapter(loraOptions(parsed), parsed.seed));
    return new Adapter(native, model.folder);
  }

  /** A PEFT folder (adapter_config.json, adapter_model.safetensors); it must fit the model. */
  static async load(model: Model, folder: string): Promise<Adapter> {
    return new Adapter(await call(() => model.native.loadAdapter(folder)), model.folder);
  }

  get info(): NativeAdapterInfo {
    return callSync(() => this.native.info());
  }

  /** Writes a PEFT folder, complete or not at all; with a model card unless it has one. */
  async save(folder: string): Promise<void> {
    await call(() => saveAdapterFolder(this.native, folder, this.baseModelName));
  }

  /** Waits for work in flight, then frees the adapter. */
  async dispose(): Promise<void> {
    await call(() => this.native.dispose());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}

function loraOptions(options: z.output<typeof optionsSchema>): NativeLoraOptions {
  const { r, alpha, dropout, targetModules, targetPattern } = options;
  const { useRslora, rankPattern, alphaPattern, modulesToSave } = options;
  const named = targetModules === 'all-linear' ? ['all-linear'] : targetModules;
  return {
    r,
    loraAlpha: alpha,
    loraDropout: dropout,
    useRslora,
    targetModules: targetPattern === '' ? named : [],
    targetPattern,
    rankPattern,
    alphaPattern,
    modulesToSave,
  };
}
