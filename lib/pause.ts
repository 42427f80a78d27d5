// Long loops give the event loop a turn now and then.
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LowrankError } from './errors.js';

/** `await pause.check()` inside a loop: at least every few milliseconds other work gets its turn. */
export class Pause {
  private last = performance.now();

  constructor(
    private readonly signal?: AbortSignal,
    private readonly milliseconds = 3,
  ) {}

  /** True when a turn is due; lets a hot loop avoid the cost of an `await`. */
  get due(): boolean {
    return performance.now() - this.last > this.milliseconds;
  }

  /** Throws ERR_LOWRANK_ABORTED once the signal is aborted. */
  async turn(): Promise<void> {
    if (this.signal?.aborted) {
      throw new LowrankError('ERR_LOWRANK_ABORTED', 'the work was stopped', {
        cause: this.signal.reason,
      });
    }
    await nextTurn();
    this.last = performance.now();
  }
}
