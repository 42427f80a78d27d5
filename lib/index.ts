// The package's public interface, and nothing else.
export { ChatTemplate, type ChatMessage, type RenderOptions } from './chat_template.js';
export * from './data/index.js';
export { Adapter, type AdapterOptions } from './adapter.js';
export { estimate, type EstimateOptions, type MemoryPlan } from './estimate.js';
export { LowrankError, describeError, type LowrankErrorCode } from './errors.js';
export {
  Generation,
  type FinishReason,
  type GenerateOptions,
  type GenerationSummary,
  type Prompt,
} from './generate.js';
export {
  Model,
  mergeAdapter,
  type MergeOptions,
  type MergeReport,
  type ModelLoadOptions,
  type ModelOptions,
} from './model.js';
export { TextStream } from './text_stream.js';
export { Tokenizer } from './tokenizer.js';
export { evaluate, type EvaluateOptions, type Evaluation } from './evaluate.js';
export {
  type CheckpointEvent,
  type EndEvent,
  type EvalEvent,
  type StartEvent,
  type StepEvent,
  type TrainEvent,
} from './train/events.js';
export { createSchedule, type ScheduleName, type ScheduleOptions } from './train/schedule.js';
export { Trainer, type TrainerOptions, type TrainingMethod } from './trainer.js';
