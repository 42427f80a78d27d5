// The data loader on a large file: rows per second, peak memory, delay of the event loop.
//   node bench/data_loader.mjs [megabytes = 100] [jsonl|csv|json|parquet]
// Needs `npm run build`. Memory must not grow with the size of the file, and the loop's own thread must
// not hold it for more than 5 ms (99th percentile). An idle second before each part is the yardstick.
import { createWriteStream, cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { loadDataset, prepareDataset } from '../dist/data/index.js';
import { LoopDelay, describeDelay } from './support/loop_delay.mjs';

const megabytes = Number(process.argv[2] ?? 100);
const format = process.argv[3] ?? 'jsonl';
const golden = fileURLToPath(new URL('../test/golden/templates/', import.meta.url));
const folder = mkdtempSync(path.join(tmpdir(), 'lowrank-bench-'));
const words =
  'the cat sat on the mat and the dog ate the hat what is the weather like in paris today'.split(
    ' ',
  );

function row(i) {
  const say = (n, seed) =>
    Array.from({ length: n }, (_, k) => words[(seed * 7 + k * k + k) % words.length]).join(' ');
  const messages = [];
  for (let turn = 0; turn < 1 + (i % 3); turn++) {
    messages.push({ role: 'user', content: `${i} ${say(20 + (i % 40), i + turn)}?` });
    messages.push({ role: 'assistant', content: say(40 + (i % 90), i * 3 + turn) });
  }
  return { messages };
}

async function generate(file) {
  if (format === 'parquet') {
    const { parquetWriteFile } = await import('hyparquet-writer');
    const rows = Array.from({ length: megabytes * 1000 }, (_, i) => row(i).messages);
    parquetWriteFile({
      filename: file,
      rowGroupSize: 10_000,
      columnData: [{ name: 'messages', data: rows, type: 'JSON' }],
    });
    return;
  }
  const out = createWriteStream(file);
  let bytes = 0;
  if (format === 'csv') out.write('messages\n');
  if (format === 'json') out.write('[');
  for (let i = 0; bytes < megabytes * 1e6; i++) {
    let text = JSON.stringify(row(i));
    if (format === 'csv') text = `"${JSON.stringify(row(i).messages).replaceAll('"', '""')}"`;
    if (format === 'json' && i > 0) text = `,${text}`;
    bytes += text.length + 1;
    if (!out.write(`${text}\n`)) await once(out, 'drain');
  }
  if (format === 'json') out.write(']');
  out.end();
  await once(out, 'close');
}

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

async function measure(name, work) {
  const resting = new LoopDelay().start();
  await sleep(1000);
  const idle = resting.stop();
  const delay = new LoopDelay().start();
  let peak = 0;
  const timer = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss())), 20);
  const start = performance.now();
  const result = await work();
  const seconds = (performance.now() - start) / 1000;
  clearInterval(timer);
  const loop = describeDelay(delay.stop(), idle);
  console.log(`${name.padEnd(12)} ${seconds.toFixed(2)} s, peak RSS ${mib(peak)}, ${loop}`);
  return result;
}

try {
  const file = path.join(folder, `rows.${format}`);
  await generate(file);
  for (const name of ['chatml.jinja', 'tokenizer_bytes.json']) {
    cpSync(
      path.join(golden, name),
      path.join(folder, name === 'chatml.jinja' ? 'chat_template.jinja' : 'tokenizer.json'),
    );
  }
  writeFileSync(path.join(folder, 'tokenizer_config.json'), '{"eos_token":"<|im_end|>"}');
  globalThis.gc?.();
  console.log(`${format}, ${megabytes} MB; before: RSS ${mib(process.memoryUsage.rss())}`);
  const options = { model: folder, cacheDir: path.join(folder, 'cache'), maxLength: 512 };
  const data = await measure('tokenize', async () =>
    prepareDataset(await loadDataset(file), options),
  );
  const { rows, splits } = data.report;
  console.log(`             ${rows} rows, ${splits.train.tokens} tokens in train`);
  await data.close();
  const again = await measure('from cache', async () =>
    prepareDataset(await loadDataset(file), options),
  );
  await measure('read epoch', async () => {
    for await (const _ of again.batches('train', {
      packing: true,
      shuffle: true,
      perDeviceBatchSize: 4,
    }));
  });
  await again.close();
} finally {
  rmSync(folder, { recursive: true });
}
