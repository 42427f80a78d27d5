// One life-cycle case per process: `node child.mjs CASE MODEL_FOLDER`. Prints one line of JSON.
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker, isMainThread, workerData } from 'node:worker_threads';

import {
  device,
  loadBuild,
  loraOptions,
  microBatch,
  modelOptions,
  sessionOptions,
} from '../support/tiny_model.mjs';

const addon = loadBuild();
const [name, folder] = isMainThread ? process.argv.slice(2) : workerData;
const self = fileURLToPath(import.meta.url);
const report = (value) => console.log(JSON.stringify(value));

async function open() {
  const model = await addon.loadModel(device, folder, modelOptions);
  const adapter = await model.createAdapter(loraOptions, 1);
  const session = await model.createSession(adapter, sessionOptions);
  return { model, adapter, session };
}

const step = (session, number, flag) =>
  session.step([microBatch()], { learningRate: 1e-3, step: number }, flag);

/** Trains until something from outside ends it; `begun` is called after the first step. */
async function trainForever(begun = () => {}) {
  const { session } = await open();
  for (let number = 1; ; number++) {
    await step(session, number);
    if (number === 1) begun();
  }
}

function startWorker(task) {
  return new Worker(self, { workerData: [task, folder] });
}

const cases = {
  // Loads and frees often; memory and threads after a warm-up against those at the end.
  async rounds() {
    const round = async () => {
      const { model, session } = await open();
      await step(session, 1);
      await model.dispose();
    };
    const state = () => ({
      resident: addon.memory().residentBytes,
      threads: readdirSync('/proc/self/task').length,
    });
    for (let i = 0; i < 200; i++) await round();
    global.gc();
    const before = state();
    for (let i = 0; i < 800; i++) await round();
    global.gc();
    report({ before, after: state() });
  },

  // Nothing is disposed; V8 collects the objects and the engine's threads end.
  async collected() {
    const threads = () => readdirSync('/proc/self/task').length;
    await open();
    const first = threads();
    let most = 0;
    for (let i = 0; i < 50; i++) {
      await open();
      most = Math.max(most, threads());
    }
    for (let i = 0; i < 50 && threads() > first; i++) {
      global.gc();
      await sleep(20);
    }
    report({ first, most, last: threads() });
  },

  async disposal() {
    const { model, adapter, session } = await open();
    const running = step(session, 1);
    const late = model.createSession(adapter, sessionOptions).then(
      () => 'created',
      (error) => error.code,
    );
    const disposals = [session.dispose(), model.dispose(), model.dispose(), session.dispose()];
    const { loss } = await running;
    await Promise.all(disposals);
    const after = await step(session, 2).catch((error) => error.code);
    const sync = (() => {
      try {
        return model.info();
      } catch (error) {
        return error.code;
      }
    })();
    report({ finite: Number.isFinite(loss), late: await late, after, sync });
  },

  // Many sequential environments in one process, each ended in the middle of a step.
  async terminate() {
    for (let i = 0; i < 20; i++) {
      const worker = startWorker('worker-train');
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
      await sleep(i);
      await worker.terminate();
    }
    const { session } = await open();
    report({ loss: (await step(session, 1)).loss });
  },

  async workers() {
    const results = await Promise.all(
      ['worker-losses', 'worker-losses', 'worker-losses'].map(
        (task) =>
          new Promise((resolve, reject) =>
            startWorker(task).once('message', resolve).once('error', reject),
          ),
      ),
    );
    report({ results });
  },

  // Two trainers in one environment give what each gives alone.
  async together() {
    const losses = async () => {
      const { session } = await open();
      const all = [];
      for (let i = 1; i <= 5; i++) all.push((await step(session, i)).loss);
      return all;
    };
    const alone = await losses();
    report({ alone, together: await Promise.all([losses(), losses()]) });
  },

  async exit() {
    await trainForever(() => setTimeout(() => process.exit(7), 30));
  },

  async uncaught() {
    await trainForever(() =>
      setTimeout(() => {
        throw new Error('thrown on purpose');
      }, 30),
    );
  },

  async signal() {
    await trainForever(() => process.kill(process.pid, 'SIGTERM'));
  },

  // The flag is set while a step over many micro-batches runs.
  async abort() {
    const { session } = await open();
    const flag = addon.createAbortFlag();
    const batches = Array.from({ length: 20_000 }, () => microBatch());
    const running = session.step(batches, { learningRate: 1e-3, step: 1 }, flag);
    setTimeout(() => flag.abort(), 30);
    const { aborted, seconds } = await running;
    const again = await step(session, 1);
    report({ aborted, seconds, after: again.loss });
  },

  async aborted_load() {
    const flag = addon.createAbortFlag();
    flag.abort();
    const load = addon.loadModel(device, folder, modelOptions, undefined, flag);
    report({
      code: await load.then(
        () => 'loaded',
        (error) => error.code,
      ),
    });
  },

  // Files keep moving while the engine works: it doesn't sit in libuv's pool.
  async pool() {
    const { session } = await open();
    const batches = Array.from({ length: 20_000 }, () => microBatch());
    const flags = [];
    const running = Array.from({ length: 6 }, () => {
      const flag = addon.createAbortFlag();
      flags.push(flag);
      return session.step(batches, { learningRate: 1e-3, step: 1 }, flag);
    });
    const { readFile } = await import('node:fs/promises');
    let done = 0;
    for (let i = 0; i < 20; i++) done += (await readFile(self)).length > 0 ? 1 : 0;
    const stillRunning = await Promise.race([running[0].then(() => false), sleep(0, true)]);
    for (const flag of flags) flag.abort();
    await Promise.all(running);
    report({ done, stillRunning });
  },
};

const { parentPort } = await import('node:worker_threads');
const workerTasks = {
  'worker-train': () => trainForever(() => parentPort.postMessage('training')),
  async 'worker-losses'() {
    const { session } = await open();
    const losses = [];
    for (let i = 1; i <= 5; i++) losses.push((await step(session, i)).loss);
    parentPort.postMessage(losses);
  },
};

await (isMainThread ? cases : workerTasks)[name]();
