// Loss and accuracy over a set of batches, in constant memory.

import type { NativeAbortFlag, NativeMicroBatch, NativeSession } from '../native/addon.js';
import type { BatchSource } from './batches.js';

export interface Evaluation {
  /** Nats per unit of label weight. */
  loss: number;
  perplexity: number;
  accuracy: number;
  tokens: number;
  labelTokens: number;
}

// Micro-batches per native call: enough to make the call's cost vanish, few enough to stop soon.
const GROUP = 8;

/** Null when aborted. */
export async function evaluateBatches(
  session: NativeSession,
  source: BatchSource,
  abort?: NativeAbortFlag,
): Promise<Evaluation | null> {
  let lossSum = 0;
  let weight = 0;
  let correct = 0;
  let tokens = 0;
  let labelTokens = 0;
  const run = async (group: NativeMicroBatch[]): Promise<boolean> => {
    const result = await session.evaluate(group, { perToken: false }, abort);
    if (result.aborted) return false;
    lossSum += result.loss * result.weight;
    weight += result.weight;
    correct += result.correct;
    tokens += result.tokens;
    labelTokens += result.labelTokens;
    return true;
  };
  const batches = await source.epoch(0);
  for (let from = 0; from < batches.length; from += GROUP) {
    const group: NativeMicroBatch[] = [];
    for (let i = from; i < Math.min(batches.length, from + GROUP); i++)
      group.push(await batches.batch(i));
    if (!(await run(group))) return null;
  }
  const loss = weight > 0 ? lossSum / weight : NaN;
  return {
    loss,
    perplexity: Math.exp(loss),
    accuracy: labelTokens > 0 ? correct / labelTokens : 0,
    tokens,
    labelTokens,
  };
}
