// The package's only error class. Every error says what is wrong, where, and what to do.

export type LowrankErrorCode =
  | 'ERR_LOWRANK_INVALID_ARGUMENT'
  | 'ERR_LOWRANK_INVALID_FILE'
  | 'ERR_LOWRANK_INVALID_DATA'
  | 'ERR_LOWRANK_IO'
  | 'ERR_LOWRANK_UNSUPPORTED'
  | 'ERR_LOWRANK_OUT_OF_MEMORY'
  | 'ERR_LOWRANK_BACKEND'
  | 'ERR_LOWRANK_NOT_FINITE'
  | 'ERR_LOWRANK_ABORTED'
  | 'ERR_LOWRANK_DISPOSED'
  | 'ERR_LOWRANK_INTERNAL'
  | 'ERR_LOWRANK_BINARY_NOT_FOUND';

export interface LowrankErrorDetails {
  /** The place: `file:line`, a tensor, a configuration key. */
  where?: string;
  /** What to do about it. */
  hint?: string;
  cause?: unknown;
}

export class LowrankError extends Error {
  readonly code: LowrankErrorCode;
  readonly where?: string;
  readonly hint?: string;

  constructor(code: LowrankErrorCode, message: string, details: LowrankErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'LowrankError';
    this.code = code;
    this.where = details.where;
    this.hint = details.hint;
  }
}

/** One or two lines for a terminal: place, message, hint. */
export function describeError(error: unknown): string {
  if (!(error instanceof LowrankError))
    return error instanceof Error ? error.message : String(error);
  const place = error.where ? `${error.where}: ` : '';
  const hint = error.hint ? `\n  ${error.hint}` : '';
  return `${place}${error.message}${hint}`;
}

/** Turns an addon error (code, where, hint as properties) into a LowrankError; leaves others alone. */
export function fromNative(error: unknown): unknown {
  if (error instanceof LowrankError || !(error instanceof Error)) return error;
  const { code, where, hint } = error as Error & { code?: unknown; where?: string; hint?: string };
  if (typeof code !== 'string' || !code.startsWith('ERR_LOWRANK_')) return error;
  return new LowrankError(code as LowrankErrorCode, error.message, { where, hint, cause: error });
}
