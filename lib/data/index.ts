// Public surface of the data loader.
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
