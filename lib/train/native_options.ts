// From options as people write them to options as the engine takes them.

import type {
  NativeLoraOptions,
  NativeModelOptions,
  NativeSessionOptions,
} from '../native/addon.js';
import { parseTargetModules, type CommandOptions, type TrainingOptions } from './options.js';

export function nativeModelOptions(
  options: Pick<CommandOptions, 'dtype' | 'method' | 'doubleQuant'>,
): NativeModelOptions {
  const nf4 = options.doubleQuant ? 'nf4-double' : 'nf4';
  return {
    compute: options.dtype,
    quantization: options.method === 'qlora' ? nf4 : 'none',
    trainable: options.method === 'full',
  };
}

export function nativeLoraOptions(
  options: Pick<
    CommandOptions,
    | 'loraR'
    | 'loraAlpha'
    | 'loraDropout'
    | 'useRslora'
    | 'targetModules'
    | 'rankPattern'
    | 'alphaPattern'
    | 'modulesToSave'
  >,
): NativeLoraOptions {
  return {
    r: options.loraR,
    loraAlpha: options.loraAlpha,
    loraDropout: options.loraDropout,
    useRslora: options.useRslora,
    ...parseTargetModules(options.targetModules),
    rankPattern: options.rankPattern,
    alphaPattern: options.alphaPattern,
    modulesToSave: options.modulesToSave,
  };
}

export function nativeSessionOptions(
  options: Pick<
    TrainingOptions,
    | 'optim'
    | 'adamBeta1'
    | 'adamBeta2'
    | 'adamEpsilon'
    | 'weightDecay'
    | 'maxGradNorm'
    | 'seed'
    | 'gradientCheckpointing'
    | 'memoryBudget'
  >,
  limits: { maxTokens: number; maxLabels?: number },
): NativeSessionOptions {
  return {
    optimizer: options.optim,
    beta1: options.adamBeta1,
    beta2: options.adamBeta2,
    eps: options.adamEpsilon,
    weightDecay: options.weightDecay,
    maxGradNorm: options.maxGradNorm,
    seed: options.seed,
    checkpointing: options.gradientCheckpointing,
    ...limits,
    ...(options.memoryBudget === undefined ? {} : { memoryBudget: options.memoryBudget }),
  };
}
