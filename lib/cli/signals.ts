// Ctrl-C and SIGTERM ask a run to stop at the next micro-batch and leave a checkpoint; a second one
// ends the process at once.

export interface StopSignal {
  signal: AbortSignal;
  /** Takes the handlers away again. */
  release(): void;
}

export function stopOnSignals(): StopSignal {
  const controller = new AbortController();
  const handler = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(130);
    process.stderr.write(`\n${name}: stopping at the next micro-batch; once more to quit now\n`);
    controller.abort();
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
  return {
    signal: controller.signal,
    release() {
      process.off('SIGINT', handler);
      process.off('SIGTERM', handler);
    },
  };
}
