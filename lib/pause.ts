// Long loops give the event loop a turn now and then: `Pause` in asynchronous code, and for synchronous
// algorithms generators that yield wherever they may be interrupted.
import { LowrankError } from './errors.js';

// All that pauses shares the event loop's time: one goes on per turn of the loop, first come first
// served, so that several at once hold it no longer than one would.
let lastTurn = 0;
const waiting: (() => void)[] = [];

function goOn(): void {
  lastTurn = performance.now();
  waiting.shift()?.();
  if (waiting.length > 0) setImmediate(goOn);
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    if (waiting.push(resolve) === 1) setImmediate(goOn);
  });
}

/** `await pause.turn()` whenever `pause.due`: other work gets its turn every few milliseconds. */
export class Pause {
  constructor(
    private readonly signal?: AbortSignal,
    private readonly milliseconds = 2,
  ) {}

  /** True when a turn is due; lets a hot loop avoid the cost of an `await`. */
  get due(): boolean {
    return performance.now() - lastTurn > this.milliseconds;
  }

  /** Throws ERR_LOWRANK_ABORTED once the signal is aborted. */
  async turn(): Promise<void> {
    if (this.signal?.aborted) {
      throw new LowrankError('ERR_LOWRANK_ABORTED', 'the work was stopped', {
        cause: this.signal.reason,
      });
    }
    await nextTurn();
  }
}

/** A calculation in pieces of less than a millisecond; what it returns doesn't depend on who runs it. */
export type Pieces<T> = Generator<undefined, T, undefined>;

/** Elements of a plain loop between two yields. */
export const PIECE = 4096;

/** Runs it to the end; other work gets its turn in between. */
export async function inTurns<T>(work: Pieces<T>, signal?: AbortSignal): Promise<T> {
  const pause = new Pause(signal);
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
    if (pause.due) await pause.turn();
  }
}

/** Runs it to the end at once. */
export function atOnce<T>(work: Pieces<T>): T {
  for (;;) {
    const { done, value } = work.next();
    if (done) return value;
  }
}
