// The package's public interface, and nothing else.
export { Adapter, type AdapterOptions } from './adapter.js';
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
