// Public surface of the data loader.
export { Dataset, loadDataset, type LoadDatasetOptions } from './dataset.js';
export type { PrepareOptions, PrepareProgress } from './options.js';
export { countOverlap, prepareDataset } from './prepare.js';
export type { RowIterable } from './source.js';
export type {
  BadRow,
  BatchOptions,
  BatchPlan,
  DataReport,
  Example,
  LengthStatistics,
  MicroBatch,
  PreparedData,
  RowFormat,
  SplitName,
  SplitReport,
} from './types.js';
