// An AbortSignal as the flag that native work checks.
import { LowrankError } from '../errors.js';
import type { NativeAbortFlag } from './addon.js';
import { loadAddon } from './load_addon.js';

export interface AbortLink {
  readonly flag: NativeAbortFlag;
  readonly aborted: boolean;
  /** Stops listening; call it when the work is over. */
  unlink(): void;
}

export function linkAbort(signal?: AbortSignal): AbortLink {
  const flag = loadAddon().createAbortFlag();
  const abort = (): void => flag.abort();
  if (signal?.aborted) abort();
  signal?.addEventListener('abort', abort, { once: true });
  return {
    flag,
    get aborted() {
      return signal?.aborted ?? false;
    },
    unlink: () => signal?.removeEventListener('abort', abort),
  };
}

/** Throws ERR_LOWRANK_ABORTED, with the signal's reason as its cause, once the signal is aborted. */
export function throwIfAborted(signal?: AbortSignal): void {
  if (!signal?.aborted) return;
  throw new LowrankError('ERR_LOWRANK_ABORTED', 'aborted by the signal', { cause: signal.reason });
}
