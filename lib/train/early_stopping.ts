// Watches the evaluation loss: which checkpoint is best, and whether to stop.

export interface EarlyStoppingState {
  bestLoss: number | null;
  bestStep: number | null;
  evaluationsWithoutImprovement: number;
}

export class EarlyStopping {
  state: EarlyStoppingState;

  /** `patience` undefined: never stops, still remembers the best. */
  constructor(
    private readonly patience: number | undefined,
    private readonly threshold = 0,
    state?: EarlyStoppingState,
  ) {
    this.state = state ?? { bestLoss: null, bestStep: null, evaluationsWithoutImprovement: 0 };
  }

  /** Records an evaluation; true when it is the best so far. NaN is never best. */
  record(step: number, loss: number): boolean {
    const { bestLoss } = this.state;
    if (Number.isFinite(loss) && (bestLoss === null || loss < bestLoss - this.threshold)) {
      this.state = { bestLoss: loss, bestStep: step, evaluationsWithoutImprovement: 0 };
      return true;
    }
    this.state = {
      ...this.state,
      evaluationsWithoutImprovement: this.state.evaluationsWithoutImprovement + 1,
    };
    return false;
  }

  get shouldStop(): boolean {
    return this.patience !== undefined && this.state.evaluationsWithoutImprovement >= this.patience;
  }
}
