// Every option of a training run: one schema from which the API's types, the command line's flags,
// the config file's keys and its JSON schema are made. Names are PEFT's and TRL's in camel case.

import { z } from 'zod';

import { SCHEDULE_NAMES } from './schedule.js';

const count = () => z.number().int().positive();
const share = () => z.number().min(0).max(1);

/** What both the trainer and the command line take. */
export const trainingShape = {
  optim: z.enum(['adamw', 'adamw_8bit']).default('adamw').describe('optimizer'),
  learningRate: z.number().nonnegative().default(2e-4).describe('peak learning rate'),
  numTrainEpochs: z.number().positive().default(3).describe('passes over the training data'),
  maxSteps: z
    .number()
    .int()
    .min(-1)
    .default(-1)
    .describe('stop after this many steps; -1 = by epochs'),
  perDeviceTrainBatchSize: count().default(4).describe('sequences (or packs) per micro-batch'),
  perDeviceEvalBatchSize: count().default(8).describe('sequences (or packs) per evaluation batch'),
  gradientAccumulationSteps: count().default(1).describe('micro-batches per optimizer step'),
  maxLength: count().default(1024).describe('longest sequence in tokens'),
  packing: z.boolean().default(false).describe('pack several rows into one sequence of max-length'),
  lrSchedulerType: z.enum(SCHEDULE_NAMES).default('linear').describe('learning-rate schedule'),
  warmupSteps: z
    .number()
    .nonnegative()
    .default(0)
    .describe('warmup in steps, or as a ratio when below 1'),
  warmupRatio: share().optional().describe('warmup as a share of all steps'),
  lrNumCycles: z.number().positive().optional().describe('cycles of the cosine schedules'),
  lrPower: z.number().positive().optional().describe('exponent of the polynomial schedule'),
  lrMinRatio: share().optional().describe('final learning rate as a share of the peak'),
  lrDecaySteps: z
    .number()
    .nonnegative()
    .optional()
    .describe('decay of warmup_stable_decay: steps, or a ratio below 1'),
  weightDecay: z
    .number()
    .nonnegative()
    .default(0)
    .describe('decoupled weight decay; never on norms and biases'),
  adamBeta1: share().default(0.9).describe('AdamW beta1'),
  adamBeta2: share().default(0.999).describe('AdamW beta2'),
  adamEpsilon: z.number().positive().default(1e-8).describe('AdamW epsilon'),
  maxGradNorm: z
    .number()
    .nonnegative()
    .default(1)
    .describe('clip the global gradient norm; 0 = off'),
  seed: z
    .number()
    .int()
    .nonnegative()
    .default(42)
    .describe('seed of initialisation, shuffling and dropout'),
  shuffle: z.boolean().default(true).describe('shuffle the training data each epoch'),
  gradientCheckpointing: z
    .enum(['none', 'block', 'auto'])
    .default('auto')
    .describe('recompute activations to save memory'),
  memoryBudget: count().optional().describe('bytes the plan may use (auto checkpointing)'),
  loggingSteps: count().default(1).describe('steps between log lines'),
  evalSteps: count().optional().describe('steps between evaluations; default: once per epoch'),
  saveSteps: count().optional().describe('steps between checkpoints; default: once per epoch'),
  saveTotalLimit: count().default(3).describe('checkpoints kept, beside the best one'),
  earlyStoppingPatience: count()
    .optional()
    .describe('stop after this many evaluations without improvement'),
  earlyStoppingThreshold: z
    .number()
    .nonnegative()
    .default(0)
    .describe('smallest improvement of eval_loss that counts'),
  loadBestModelAtEnd: z
    .boolean()
    .default(false)
    .describe('end with the checkpoint of the lowest eval_loss'),
  splitRatio: z
    .string()
    .regex(
      /^\d+(\.\d+)?\/\d+(\.\d+)?\/\d+(\.\d+)?$/,
      'must be train/validation/test, such as 80/10/10',
    )
    .default('80/10/10')
    .describe('train/validation/test split when no eval data is given'),
  maxBadRows: z
    .number()
    .int()
    .nonnegative()
    .default(0)
    .describe('bad rows that are skipped instead of stopping the run'),
  truncation: z
    .enum(['truncate', 'drop', 'split'])
    .default('truncate')
    .describe('longer examples: cut off, leave out, or (plain text) go on in another example'),
  chatTemplate: z.string().optional().describe("file of a chat template instead of the model's"),
  allowNoStopToken: z.boolean().default(false).describe('start although no stop token is trained'),
  cacheDir: z
    .string()
    .optional()
    .describe('folder of the tokenized cache; default: inside the output folder'),
};

/** What the command line adds: where things are and how the model is loaded. */
export const commandShape = {
  model: z.string().describe('folder of the base model (Hugging Face format)'),
  data: z.string().describe('training data: JSONL, JSON, CSV, Parquet or a folder of them'),
  evalData: z.string().optional().describe('validation data; default: a part of --data'),
  output: z.string().describe('run folder'),
  method: z.enum(['lora', 'qlora', 'full']).default('lora').describe('what is trained'),
  dtype: z.enum(['f32', 'bf16']).default('bf16').describe('type of activations'),
  doubleQuant: z.boolean().default(true).describe('qlora: quantize the quantization constants too'),
  copyWeights: z
    .boolean()
    .default(true)
    .describe('CPU: copy weights to memory, where they fit, instead of mapping their file'),
  loraR: count().default(16).describe('rank'),
  loraAlpha: z.number().positive().default(32).describe('scale: alpha / r'),
  loraDropout: z.number().min(0).lt(1).default(0).describe('dropout on the adapter input'),
  targetModules: z
    .union([z.string(), z.array(z.string())])
    .default('all-linear')
    .describe('linears to adapt: all-linear, a comma-separated list, or a regular expression'),
  useRslora: z.boolean().default(false).describe('scale: alpha / sqrt(r)'),
  rankPattern: z
    .record(z.string(), count())
    .default({})
    .describe('rank by module name or pattern (JSON)'),
  alphaPattern: z
    .record(z.string(), z.number().positive())
    .default({})
    .describe('alpha by module name or pattern (JSON)'),
  modulesToSave: z
    .array(z.string())
    .default([])
    .describe('modules trained in full beside the adapter'),
  initAdapter: z.string().optional().describe('start from this PEFT adapter'),
  resumeFromCheckpoint: z.string().optional().describe("a checkpoint folder, or 'last'"),
  device: z
    .string()
    .default('auto')
    .describe('cpu, cuda, cuda:N, or auto: CUDA where it can be used, else the CPU'),
  threads: count().optional().describe('CPU threads; default: one per physical core'),
  isa: z
    .string()
    .optional()
    .describe('CPU instruction set: reference, avx2, avx512, avx512_bf16, amx, neon'),
};

export const trainingSchema = z.strictObject(trainingShape);
export const commandSchema = z.strictObject({ ...commandShape, ...trainingShape });

export type TrainingOptions = z.output<typeof trainingSchema>;
export type TrainingInput = z.input<typeof trainingSchema>;
export type CommandOptions = z.output<typeof commandSchema>;

/** `--target-modules` as the engine takes it: a list of names, or one regular expression. */
export function parseTargetModules(value: string | string[]): {
  targetModules: string[];
  targetPattern: string;
} {
  if (Array.isArray(value)) return { targetModules: value, targetPattern: '' };
  if (value === 'all-linear') return { targetModules: ['all-linear'], targetPattern: '' };
  if (/^[\w.,\s-]+$/.test(value) && !/^\.|\.\*/.test(value))
    return {
      targetModules: value
        .split(',')
        .map((name) => name.trim())
        .filter(Boolean),
      targetPattern: '',
    };
  return { targetModules: [], targetPattern: value };
}

/** `80/10/10` as shares of train, validation and test that sum to 1. */
export function parseSplitRatio(text: string): [number, number, number] {
  const parts = text.split('/').map(Number);
  const sum = parts.reduce((a, b) => a + b, 0) || 1;
  return [parts[0]! / sum, parts[1]! / sum, parts[2]! / sum];
}

/** The options that decide what a step computes; a resumed run must have the same. */
export function trainingFingerprint(
  options: TrainingOptions,
): Record<string, string | number | boolean> {
  const {
    evalSteps: _e,
    saveSteps: _s,
    saveTotalLimit: _l,
    loggingSteps: _g,
    earlyStoppingPatience: _p,
    earlyStoppingThreshold: _t,
    loadBestModelAtEnd: _b,
    memoryBudget: _m,
    gradientCheckpointing: _c,
    perDeviceEvalBatchSize: _v,
    cacheDir: _d,
    numTrainEpochs: _n, // decides total_steps, which is compared instead
    maxSteps: _x,
    ...rest
  } = options;
  return Object.fromEntries(
    Object.entries(rest).filter(([, value]) => value !== undefined),
  ) as Record<string, string | number | boolean>;
}
