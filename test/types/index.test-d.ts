// The public types as a user meets them; checked against dist with tsd.
import { expectAssignable, expectError, expectType } from 'tsd';

import {
  Adapter,
  Dataset,
  LowrankError,
  Model,
  Trainer,
  estimate,
  evaluate,
  loadDataset,
  type Evaluation,
  type MemoryPlan,
  type TrainEvent,
  type TrainerOptions,
} from '../../dist/index.js';

expectType<Promise<Model>>(Model.load('folder', { quantization: 'nf4', dtype: 'bf16' }));
expectError(Model.load('folder', { quantization: 'q4' }));
expectType<Promise<Dataset>>(loadDataset([{ text: 'a' }]));

declare const model: Model;
declare const train: Dataset;
const options: TrainerOptions = {
  model,
  method: { type: 'lora', r: 16, alpha: 32, targetModules: 'all-linear' },
  train,
  outputDir: 'run',
  learningRate: 2e-4,
  epochs: 3,
  signal: new AbortController().signal,
};
const trainer = new Trainer(options);
expectError(new Trainer({ ...options, method: { type: 'full', r: 16 } }));
expectError(new Trainer({ ...options, lrSchedulerType: 'linaer' }));

for await (const event of trainer.run()) {
  expectType<TrainEvent>(event);
  if (event.type === 'step') expectType<number>(event.loss);
  if (event.type === 'end') expectType<'completed' | 'early-stopping' | 'aborted'>(event.reason);
}
expectType<Promise<void>>(trainer.saveAdapter('adapter'));
expectType<Adapter | null>(trainer.adapter);
expectType<Promise<Evaluation>>(evaluate(model, train, { split: 'test' }));

expectType<Promise<MemoryPlan>>(estimate({ model: 'folder', method: 'qlora', maxLength: 512 }));
expectError(estimate({ method: 'qlora' }));

for await (const piece of model.generate([{ role: 'user', content: 'Hi' }]))
  expectType<string>(piece);
expectType<Promise<string>>(model.generate('Hi').text());

expectAssignable<Error>(new LowrankError('ERR_LOWRANK_IO', 'x', { where: 'file:1', hint: 'y' }));
expectError(new LowrankError('ERR_SOMETHING', 'x'));
