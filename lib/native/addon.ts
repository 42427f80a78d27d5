// The typed surface of the native addon. A test compares it with what the .node file exports.
// All methods that do work return promises; the work runs on threads of the engine's own: one per
// loaded model, which its adapters, sessions and generators share, so their calls never overlap.
// Typed arrays are copied before a method returns, so callers may reuse them.

export type NativeDType = 'f32' | 'bf16' | 'f16';
export type NativeQuantization = 'none' | 'nf4' | 'nf4-double' | 'int8';

export interface NativeDeviceOptions {
  device: string; // "cpu", "cuda", "cuda:N" or "auto"
  threads?: number; // of the CPU
  isa?: string; // the CPU's
  profile?: boolean; // time every operation (NativeModel.takeProfile)
}

export interface NativeModelOptions {
  compute: 'f32' | 'bf16';
  quantization: NativeQuantization;
  trainable: boolean;
  maxLength?: number;
  copyWeights?: boolean;
}

export interface NativeModelInfo {
  family: string;
  path: string;
  vocabulary: number;
  hidden: number;
  intermediate: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  maxPositions: number;
  tiedEmbeddings: boolean;
  parameters: number;
  weightBytes: number;
  eosTokenIds: number[];
  bosTokenId: number;
  padTokenId: number;
  compute: string;
  quantization: string;
  device: string;
  isa: string;
}

export interface NativeLoraOptions {
  r: number;
  loraAlpha: number;
  loraDropout: number;
  useRslora: boolean;
  targetModules: string[]; // ["all-linear"] = every linear
  targetPattern: string; // a regular expression on full names, instead; "" = none
  rankPattern: Record<string, number>;
  alphaPattern: Record<string, number>;
  modulesToSave: string[];
}

export interface NativeAdapterInfo {
  options: NativeLoraOptions;
  modules: string[];
  parameters: number;
}

export interface NativeSessionOptions {
  optimizer: 'adamw' | 'adamw_8bit';
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  maxGradNorm: number;
  seed: number;
  maxTokens: number;
  maxLabels?: number;
  checkpointing: 'none' | 'block' | 'auto';
  memoryBudget?: number;
}

// Labels are aligned with inputIds (-100 = none); the engine shifts inside each document.
export interface NativeMicroBatch {
  inputIds: Int32Array;
  labels: Int32Array;
  weights?: Float32Array;
  documentOffsets: Int32Array; // documents + 1
}

export interface NativeStepResult {
  loss: number;
  gradNorm: number;
  weight: number;
  tokens: number;
  labelTokens: number;
  correct: number;
  seconds: number;
  aborted: boolean;
}

export interface NativePlanReport {
  items: { name: string; bytes: number }[];
  totalBytes: number;
  recomputedLayers: number;
  layers: number;
  checkpointing: string;
}

export interface NativeSamplingOptions {
  temperature: number;
  topK: number;
  topP: number;
  seed: number;
}

// An abort flag that native work checks; one per AbortSignal.
export interface NativeAbortFlag {
  abort(): void;
}

// FLOPs of products only; bytes of operands, each once.
export interface NativeProfileRow {
  op: string;
  shape: string;
  calls: number;
  seconds: number;
  flops: number;
  bytes: number;
}

export interface NativeModel {
  info(): NativeModelInfo;
  save(folder: string, dtype: NativeDType): Promise<void>;
  // What ran since the last call, slowest first; [] unless the device was opened with `profile`.
  takeProfile(): Promise<NativeProfileRow[]>;
  createAdapter(options: NativeLoraOptions, seed: number): Promise<NativeAdapter>;
  loadAdapter(folder: string): Promise<NativeAdapter>;
  createSession(
    adapter: NativeAdapter | null,
    options: NativeSessionOptions,
  ): Promise<NativeSession>;
  createGenerator(adapter: NativeAdapter | null, capacity: number): Promise<NativeGenerator>;
  forwardLogits(adapter: NativeAdapter | null, ids: Int32Array): Promise<Float32Array>;
  // Waits for work in flight, then frees; later calls reject with ERR_LOWRANK_DISPOSED.
  dispose(): Promise<void>;
}

export interface NativeAdapter {
  info(): NativeAdapterInfo;
  save(folder: string, baseModelName: string): Promise<void>;
  dispose(): Promise<void>;
}

export interface NativeSession {
  step(
    batches: NativeMicroBatch[],
    options: { learningRate: number; step: number },
    abort?: NativeAbortFlag,
  ): Promise<NativeStepResult>;
  evaluate(
    batches: NativeMicroBatch[],
    options: { perToken: boolean },
    abort?: NativeAbortFlag,
  ): Promise<NativeStepResult & { perToken?: Float32Array }>;
  gradients(
    batches: NativeMicroBatch[],
    step: number,
  ): Promise<{ result: NativeStepResult; gradients: Record<string, Float32Array> }>;
  plan(): NativePlanReport;
  saveState(file: string): Promise<void>;
  loadState(file: string): Promise<void>;
  dispose(): Promise<void>;
}

export interface NativeGenerator {
  prefill(ids: Int32Array, abort?: NativeAbortFlag): Promise<void>;
  // Samples one token and reads it.
  next(options: NativeSamplingOptions): Promise<number>;
  logits(): Float32Array;
  length(): number;
  cacheBytes(): number;
  dispose(): Promise<void>;
}

export interface NativeAddon {
  version: string;
  listBackends(): { name: string; available: boolean; message: string }[];
  // Where the CUDA plug-in lies; before the first device is opened.
  setPluginFolder(folder: string): void;
  describeDevice(options: NativeDeviceOptions): {
    device: string;
    name: string;
    isa: string;
    threads: number;
    totalBytes: number;
    freeBytes: number;
    // A vendor's library that multiplies too, or ''.
    library: string;
    // What is missing and how to get it, or ''.
    note: string;
  };
  // FLOP per second of f32 or bf16 products, or bytes per second of memory read; measured now.
  measurePeak(device: NativeDeviceOptions, kind: 'f32' | 'bf16' | 'memory'): Promise<number>;
  createAbortFlag(): NativeAbortFlag;
  loadModel(
    device: NativeDeviceOptions,
    folder: string,
    options: NativeModelOptions,
    onProgress?: (done: number, total: number) => void,
    abort?: NativeAbortFlag,
  ): Promise<NativeModel>;
  createModel(
    device: NativeDeviceOptions,
    configJson: string,
    options: NativeModelOptions,
    seed: number,
  ): Promise<NativeModel>;
  estimate(
    device: NativeDeviceOptions,
    configJson: string,
    options: { model: NativeModelOptions; lora?: NativeLoraOptions; session: NativeSessionOptions },
  ): NativePlanReport;
  mergeAdapter(
    device: NativeDeviceOptions,
    modelFolder: string,
    adapterFolder: string,
    outputFolder: string,
    onProgress?: (done: number, total: number) => void,
  ): Promise<{ maxLogitDifference: number; maxLogit: number; tensorsMerged: number }>;
  // Header of one safetensors file: names, dtypes, shapes, metadata.
  inspectSafetensors(file: string): {
    tensors: { name: string; dtype: string; shape: number[]; bytes: number }[];
    metadata: Record<string, string>;
  };
  memory(): { peakResidentBytes: number; residentBytes: number; availableBytes: number };
  // Flushes a folder's entries to disk.
  syncDirectory(path: string): void;
  // Kernels one by one (see lib/kernels.ts).
  kernels: NativeKernels;
}

// One op call over typed arrays; `name` and `args` as documented in lib/kernels.ts.
export interface NativeKernels {
  names(): string[];
  run(
    device: NativeDeviceOptions,
    name: string,
    args: Record<string, unknown>,
  ): Promise<Record<string, ArrayBufferView | number>>;
}

// Every error the addon throws has these fields; lib/errors.ts turns them into LowrankError.
export interface NativeErrorFields {
  code: string; // "ERR_LOWRANK_..."
  where?: string;
  hint?: string;
}
