// How long the event loop is late, and why. A loop can be late because its own thread works (held),
// or because the machine gives that thread no processor (waiting); only the first is the program's
// doing. Linux tells them apart (/proc/self/schedstat).
import { closeSync, openSync, readSync } from 'node:fs';

const INTERVAL = 1; // ms

export class LoopDelay {
  #late = [];
  #held = [];
  #timer;
  #file;
  #text = Buffer.alloc(128);

  start() {
    try {
      this.#file = openSync('/proc/self/schedstat', 'r');
    } catch {
      this.#file = undefined;
    }
    let ran = this.#threadTime();
    let time = performance.now();
    this.#timer = setInterval(() => {
      const [ranNow, now] = [this.#threadTime(), performance.now()];
      this.#late.push(Math.max(0, now - time - INTERVAL));
      this.#held.push(ranNow - ran);
      [ran, time] = [ranNow, now];
    }, INTERVAL);
    return this;
  }

  stop() {
    clearInterval(this.#timer);
    if (this.#file !== undefined) closeSync(this.#file);
    return {
      late: summary(this.#late),
      held: this.#file === undefined ? undefined : summary(this.#held),
    };
  }

  // Milliseconds that this thread has run.
  #threadTime() {
    if (this.#file === undefined) return 0;
    const length = readSync(this.#file, this.#text, 0, this.#text.length, 0);
    return Number(this.#text.toString('latin1', 0, length).split(' ')[0]) / 1e6;
  }
}

function summary(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return { p99: sorted[Math.floor(sorted.length * 0.99)] ?? 0, max: sorted.at(-1) ?? 0 };
}

export function describeDelay({ late, held }, idle) {
  const ms = (value) => value.toFixed(1);
  const own = held ? `; held by its own thread 99 % ${ms(held.p99)}, max ${ms(held.max)} ms` : '';
  return `event loop late 99 % ${ms(late.p99)} ms (${ms(idle.late.p99)} idle), max ${ms(late.max)}${own}`;
}
